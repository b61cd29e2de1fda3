"""Functions by dotted path."""

from functools import partial

import pytest

from general_manager.workflow.core.importing import describe, is_importable, path_of, resolve
from tests.testapp.workflows import double


class Handlers:
    @staticmethod
    def static(input_data):
        """Importable: it belongs to the class."""

    def method(self, input_data):
        """Not importable once bound."""

    def __call__(self, input_data):
        """Neither is an instance."""


def shadowed():
    """Hidden by the next one."""


first_shadowed = shadowed


def shadowed():  # type: ignore[no-redef]
    """What its name leads to."""


def test_a_top_level_function_has_a_path_that_leads_back_to_it():
    assert path_of(double) == "tests.testapp.workflows.double"
    assert resolve("tests.testapp.workflows.double") is double
    assert path_of(Handlers.static) == f"{__name__}.Handlers.static"
    assert resolve(f"{__name__}.Handlers.static") is Handlers.static


@pytest.mark.parametrize(
    "function",
    [lambda: None, Handlers().method, Handlers(), partial(double), first_shadowed],
)
def test_what_another_process_could_not_find_has_no_path(function):
    assert path_of(function) is None
    assert not is_importable(function)


def test_a_nested_function_has_no_path():
    def nested():
        """Lives in a call."""

    assert path_of(nested) is None
    assert "<locals>" in describe(nested)


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("nowhere", "no module 'nowhere'"),
        ("nowhere.at_all", "no module 'nowhere'"),
        ("tests.testapp.nothing.here", "has no 'nothing'"),
        ("tests.testapp.workflows.triple", "has no 'triple'"),
    ],
)
def test_a_path_that_leads_nowhere_names_what_is_missing(path, missing):
    with pytest.raises(ImportError, match=missing):
        resolve(path)


def test_a_module_that_cannot_import_something_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_module_for_tests.py").write_text("import something_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_not_installed"):
        resolve("broken_module_for_tests.handler")
