"""Sphinx: `tox run -e docs` builds the documentation with every warning an error."""

import os
import sys
from enum import Enum
from inspect import getdoc, isclass
from pathlib import Path
from typing import Any

import django
from django.db.models import Model
from sphinx.pycode import ModuleAnalyzer

# The reference imports the models, which need a project: that of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

from general_manager import __version__ as release  # noqa: E402 - after Django is set up

project = "general_manager"
author = "The general_manager authors"
copyright = "2026, the general_manager authors"
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"general_manager {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []

default_role = "literal"  # docstrings write `name`
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 72
add_module_names = False
toc_object_entries_show_parents = "hide"

if os.environ.get("DOCS_LINK_TO_OTHERS"):  # asks the network, so only when asked for
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {"python": ("https://docs.python.org/3", None)}


def add_columns(
    _app: Any, _what: str, _name: str, obj: Any, _options: Any, lines: list[str]
) -> None:
    """A table's page lists its columns, with what the comments in the source say about them."""
    if not isclass(obj) or not issubclass(obj, Model):
        return
    analyzer = ModuleAnalyzer.for_module(obj.__module__)
    comments = analyzer.find_attr_docs()
    lines += ["", ".. list-table::", "   :header-rows: 1", "   :widths: 30 20 50", ""]
    lines += ["   * - column", "     - type", "     - meaning"]
    for field in obj._meta.local_fields:
        about = " ".join(comments.get((obj.__name__, field.name), [])).strip()
        nullable = ", or null" if field.null else ""
        lines += [f"   * - ``{field.attname}``", f"     - {kind_of(field)}{nullable}"]
        lines += [f"     - {about}"]
    lines.append("")


def kind_of(field: Any) -> str:
    if field.is_relation:
        return f"``{field.related_model.__name__}``"
    words = {
        "BigAutoField": "key",
        "JSONField": "JSON",
        "DateTimeField": "time",
        "DurationField": "duration",
        "BooleanField": "yes or no",
        "CharField": "text",
        "TextField": "text",
    }
    return words.get(field.get_internal_type(), "number")


def drop_type_s_docstring(
    _app: Any, what: str, _name: str, obj: Any, _options: Any, lines: list[str]
) -> None:
    """A constant without a docstring has that of `str` or `tuple`, which says nothing about it."""
    if what == "data" and lines and "\n".join(lines).strip() == (getdoc(type(obj)) or "").strip():
        lines.clear()


def readable_signature(
    _app: Any, _what: str, _name: str, obj: Any, _options: Any, signature: str, result: str
) -> tuple[str, str] | None:
    """None for tables and enums, which nobody calls.

    A dataclass says `<factory>` where its default is an empty mapping, which is not Python.
    """
    if isclass(obj) and issubclass(obj, Model | Enum):
        return "", result
    if not signature or "<factory>" not in signature:
        return None
    return signature.replace("<factory>", "{}"), result


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", add_columns)
    app.connect("autodoc-process-docstring", drop_type_s_docstring)
    app.connect("autodoc-process-signature", readable_signature)
    # The ten overloads of `step` are for type checkers; people read the one signature.
    analyzer = ModuleAnalyzer.for_module("general_manager.workflow.durable")
    analyzer.analyze()
    analyzer.overloads.pop("step", None)
