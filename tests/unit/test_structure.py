"""The floors, and what importing costs."""

import re
import subprocess
import sys
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest
from django.db.models import Model, QuerySet

import general_manager
from general_manager import workflow
from general_manager.workflow import models, public_names
from tests.bare import PACKAGE, run_bare

CHECKOUT = Path(__file__).parents[2]
CONTRACT = [
    "workflow.backends.celery.CeleryWorkflowEngine",
    "workflow.backends.local.LocalWorkflowEngine",
    "workflow.event_registry.InMemoryEventRegistry",
    "workflow.event_registry.DatabaseEventRegistry",
    "workflow.event_registry.get_event_registry",
    "workflow.event_registry.EventRegistry",
    "workflow.event_registry.WorkflowEvent",
    "workflow.event_registry.configure_event_registry",
    "workflow.event_registry.configure_event_registry_from_settings",
    "workflow.event_registry.publish_sync",
    "workflow.events.manager_created_event",
    "workflow.events.manager_updated_event",
    "workflow.events.manager_deleted_event",
    "workflow.backend_registry.get_workflow_engine",
    "workflow.backend_registry.configure_workflow_engine",
    "workflow.backend_registry.configure_workflow_engine_from_settings",
    "workflow.engine.WorkflowDefinition",
    "workflow.engine.WorkflowExecution",
    "workflow.engine.WorkflowEngine",
    "workflow.engine.WorkflowState",
    "workflow.engine.WorkflowExecutionNotFoundError",
    "workflow.engine.WorkflowCancelledError",
    "workflow.engine.WorkflowInvalidStateError",
    "workflow.signal_bridge.connect_workflow_signal_bridge",
    "workflow.signal_bridge.disconnect_workflow_signal_bridge",
    "workflow.actions.Action",
    "workflow.actions.ActionRegistry",
    "workflow.actions.ActionNotFoundError",
    "workflow.actions.ActionAlreadyRegisteredError",
    "workflow.models.WorkflowEventRecord",
    "workflow.models.WorkflowOutbox",
    "workflow.models.WorkflowDeliveryAttempt",
    "workflow.models.WorkflowExecutionRecord",
    "GeneralManager",
    "interface.DatabaseInterface",
    "interface.ExistingModelInterface",
    "manager.signals.pre_data_change",
    "manager.signals.post_data_change",
]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_keep_to_the_floors():
    # A process of its own: import-linter configures logging for the whole process it runs in.
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("module", ["general_manager.workflow", "general_manager.workflow.events"])
def test_events_load_no_django_models_and_no_celery(module):
    result = run_bare(
        f"import sys, {module}; "
        "print([name for name in sys.modules if name.split('.')[0] in ('celery', 'kombu')"
        " or name.startswith(('django.db', 'django.apps')) or name.endswith('.models')])"
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_events_and_workflows_run_in_a_script_without_a_project():
    result = run_bare(
        "from general_manager.workflow import *\n"
        "registry, engine = InMemoryEventRegistry(), LocalWorkflowEngine()\n"
        "flow = WorkflowDefinition('w', handler=lambda data: {'n': step('n', lambda: 1)})\n"
        "registry.register('x', handler=lambda event: print(engine.start(flow).output_data))\n"
        "print(registry.publish(WorkflowEvent('1', 'a.b', {}, event_name='x')))\n"
    )
    assert (result.stdout, result.stderr) == ("{'n': 1}\nTrue\n", "")


def needs_a_project(name):
    """Tables and what works on them: Django must be set up before they are imported."""
    on_tables = ("models", "migrations", "management", "celery", "handlers", "outbox", "executions",
                 "workers", "operations", "scheduling", "tasks", "checks", "admin", "draining",
                 "testing", "templatetags", "stored_reading", "urls", "nudges",
                 "admission")  # fmt: skip
    return any(part in on_tables for part in name.split("."))


EACH_FIRST = """
import os, sys
import celery, django.contrib.admin, django.db.models, django.test  # only ours are imported anew
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        __import__(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(name)
"""


def test_every_module_can_be_imported_first_without_settings():
    names = [name for name in modules() if not needs_a_project(name)]
    assert len(names) > 30
    result = run_bare(EACH_FIRST, *names)
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_there_and_listed_once():
    for name in workflow.__all__:
        assert getattr(workflow, name) is not None
    assert sorted(public_names.WHERE_PUBLIC) == workflow.__all__ == sorted(set(workflow.__all__))
    assert set(workflow.__all__) <= set(dir(workflow))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = workflow.nonsense
    assert general_manager.GeneralManager.__name__ == "GeneralManager"
    assert "track_changes" in dir(general_manager)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = general_manager.nonsense


def test_a10_every_public_name_of_a_submodule_is_offered_by_the_package():
    """Those of section 1 of the contract, and of every other module that lists its names."""
    apart = {"general_manager.workflow.testing"}  # a kit for tests, with a name of its own
    for name in modules():
        if not name.startswith("general_manager.workflow.") or name in apart:
            continue
        module = import_module(name)
        for public in getattr(module, "__all__", ()):
            assert getattr(workflow, public, None) is getattr(module, public), (name, public)
    for path in CONTRACT:
        module_name, _, public = f"general_manager.{path}".rpartition(".")
        found = getattr(import_module(module_name), public)
        if ".workflow" in module_name:
            assert getattr(workflow, public) is found


def test_no_file_is_past_three_hundred_lines_nor_a_tables_past_four_hundred():
    """A table's verbs belong together."""
    lengths = {
        path: len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*.py")
        if "migrations" not in path.parts
    }
    verbs = PACKAGE / "workflow" / "models" / "executions" / "verbs.py"
    long = {path for path in lengths if path == verbs or path.parent.name == "models"}
    most = {path: 400 if path in long else 300 for path in lengths}
    assert {path.name: length for path, length in lengths.items() if length > most[path]} == {}


@pytest.mark.parametrize("kind", ["unit", "integration"])
def test_tests_stand_in_folders_that_are_named_as_those_of_the_package(kind):
    rooms = {path.name for path in (PACKAGE, PACKAGE / "workflow") for path in path.iterdir()}
    folders = (CHECKOUT / "tests" / kind).iterdir()
    ours = {path.name for path in folders if path.is_dir() and path.name != "__pycache__"}
    assert ours <= rooms


BY_NAME = {
    "apps.py": "Django imports it before any table is there",
    "workflow/engine.py": "the contract's path of WorkflowEngine",
    "workflow/event_registry/__init__.py": "the contract's path of DatabaseEventRegistry",
    "workflow/workers/beat.py": "loaded at start-up; the timer stands on the tables beside it",
}


def test_our_own_modules_are_imported_by_name_only_where_a_contract_or_start_up_asks_for_it():
    by_name = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"import_(module|string)\(\s*\"general_manager\.", path.read_text())
    }
    assert by_name == set(BY_NAME)


def test_a_state_is_written_by_the_tables_alone():
    elsewhere = {
        path.name: found
        for path in PACKAGE.rglob("*.py")
        if not {"models", "migrations"} & set(path.parts)
        and (found := re.findall(r"\.update\([^)]*\b(?:state|status)=", path.read_text()))
    }
    assert elsewhere == {}


def test_a_table_has_one_queryset_and_no_chain_of_them():
    tables = [
        one for one in vars(models).values() if isinstance(one, type) and issubclass(one, Model)
    ]
    assert len(tables) > 6
    for table in tables:
        queryset = type(table._default_manager.all())
        assert queryset is QuerySet or queryset.__bases__[0] is QuerySet, table


def test_no_folder_holds_more_than_twenty_modules():
    folders = {path.parent for path in PACKAGE.rglob("*.py") if path.parent.name != "commands"}
    counts = {
        str(folder): sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        for folder in folders
    }
    assert {name: count for name, count in counts.items() if count > 20} == {}


def test_every_exception_from_a_rule_says_why():
    without = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if "migrations" not in path.parts
        for line in path.read_text().splitlines()
        if re.search(r"# noqa(?!: [A-Z0-9, ]+ - \w)|# type: ignore(?!\[[a-z, -]+\] +#)", line)
    ]
    assert without == []


@pytest.mark.parametrize(("comment", "fewer_than"), [("# noqa", 44), ("# type: ignore", 15)])
def test_exceptions_from_rules_are_few(comment, fewer_than):
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if comment in line
    ]
    assert len(found) < fewer_than, "\n".join(found)


def test_a_constants_name_means_one_thing_in_the_whole_package():
    """A search for it finds one value. Those set apart mean the same for each module."""
    apart = {"ACTS", "UID", "WHERE"}
    places = defaultdict[str, list[str]](list)
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r"^_?([A-Z][A-Z_]+)(?:: .+?)? = ", path.read_text(), re.MULTILINE):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert {name: at for name, at in places.items() if len(at) > 1 and name not in apart} == {}


def test_every_column_has_a_line_that_says_what_it_means():
    for path in (PACKAGE / "workflow" / "models").glob("*.py"):
        lines = path.read_text().partition("(models.Model):")[2].splitlines()
        columns = [
            (lines[at - 1].strip(), line.split()[0])
            for at, line in enumerate(lines)
            if re.match(r"    \w+ = (models\.\w+(Field|ForeignKey)|IdField|Utf8\w+Field)\(", line)
        ]
        assert [name for before, name in columns if not before.startswith("#: ")] == [], path.name


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_every_test_that_the_docs_name_for_a_promise_exists():
    there = defaultdict[str, list[str]](list)
    for path in CHECKOUT.glob("tests/**/test_*.py"):
        there[path.name] += re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
    table = (CHECKOUT / "docs" / "guarantees.md").read_text().partition("## The promises")[2]
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+)\*)?`", table)
    promises = re.findall(r"^\| ([CEXLMOZRTSKQ]\d+) \|.*`", table, re.MULTILINE)
    assert len(promises) == len(set(promises)) == 14 + 9 + 8 + 2 + 5 + 3 + 3 + 1 + 1
    assert [(file, name) for file, name in named
            if not any(one.startswith(name) for one in there.get(file, []))] == []  # fmt: skip
