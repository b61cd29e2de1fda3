"""The API reference shows every public name, and nothing that is not there."""

import re
from importlib import import_module

import pytest
from django.dispatch import Signal

import general_manager
from general_manager import interface, manager, workflow
from general_manager.manager import signals as manager_signals
from general_manager.workflow import signals, testing
from general_manager.workflow.public_names import WHERE_PUBLIC
from tests.docs_code import CHECKOUT

DIRECTIVE = re.compile(
    r"^\.\. (?:(?P<module>currentmodule)|auto(?:class|function|exception|data)|py:data)"
    r":: (?P<name>[\w.]+)",
    re.MULTILINE,
)


def shown():
    """The dotted paths that the pages name."""
    for page in sorted((CHECKOUT / "docs" / "reference").glob("*.rst")):
        module = ""
        for found in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            if found["module"]:
                module = found["name"]
            else:
                name = found["name"]
                yield name if name.startswith("general_manager.") else f"{module}.{name}"


def public_names(module):
    """A module that lists none offers its signals."""
    signals_of = [name for name, value in vars(module).items() if isinstance(value, Signal)]
    return {f"{module.__name__}.{name}" for name in getattr(module, "__all__", signals_of)}


@pytest.mark.parametrize(
    "module",
    [general_manager, workflow, testing, interface, manager, manager_signals, signals],
    ids=lambda module: module.__name__,
)
def test_the_reference_shows_every_public_name_of(module):
    names = public_names(module)
    if module is manager:  # it repeats what the package itself offers
        names -= {f"{manager.__name__}.{name}" for name in general_manager.__all__}
    assert len(names) > 1
    assert names - set(shown()) == set()


def test_the_reference_names_nothing_twice_and_nothing_that_is_not_there():
    paths = list(shown())
    assert len(paths) == len(set(paths)) > 100
    for path in paths:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path


def test_the_reference_shows_what_dir_offers():
    """``dir()`` lists what can be imported lazily: nothing of that is left out."""
    offered = {name for name in dir(workflow) if name in WHERE_PUBLIC}
    assert offered <= {path.rpartition(".")[2] for path in shown()}
