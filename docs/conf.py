"""Sphinx: `tox run -e docs` builds the documentation with every warning an error."""

import os

project = "general_manager"
author = "The general_manager authors"
copyright = "2026, the general_manager authors"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "general_manager"
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []

if os.environ.get("DOCS_LINK_TO_OTHERS"):  # asks the network, so only when asked for
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {"python": ("https://docs.python.org/3", None)}
