"""The floors, and what importing costs."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import general_manager
from general_manager import workflow
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
    on_tables = ("models", "migrations", "management", "database", "celery", "delivery", "outbox",
                 "executor", "run_store", "sweep", "handlers", "tasks", "checks", "admin",
                 "repairs", "draining", "testing", "overview", "timeline", "health", "replaying",
                 "health_view", "metrics", "pruning", "story", "dead_letters",
                 "health_backend", "urls", "databases", "lookup", "timer", "tables",
                 "uninstalling", "verdicts")  # fmt: skip
    return any(part in on_tables for part in name.split("."))


def test_every_module_can_be_imported_first_without_settings():
    names = [name for name in modules() if not needs_a_project(name)]
    assert len(names) > 30
    for name in names:
        result = run_bare(f"import {name}")
        assert result.returncode == 0, result.stderr


def test_every_public_name_is_there_and_listed_once():
    for name in workflow.__all__:
        assert getattr(workflow, name) is not None
    assert sorted(workflow._WHERE) == workflow.__all__ == sorted(set(workflow.__all__))
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
    most = {path: 400 if path.parent.name == "models" else 300 for path in lengths}
    assert {path.name: length for path, length in lengths.items() if length > most[path]} == {}


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_every_test_that_the_docs_name_for_a_promise_exists():
    there = {
        path.name: re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
        for path in CHECKOUT.glob("tests/*/test_*.py")
    }
    table = (CHECKOUT / "docs" / "production.md").read_text().partition("## What the software")[2]
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+)\*)?`", table)
    promises = re.findall(r"^\| ([EXO]\d+) \|.*`", table, re.MULTILINE)
    assert len(promises) == len(set(promises)) == 14 + 9 + 5
    assert [(file, name) for file, name in named
            if not any(one.startswith(name) for one in there.get(file, []))] == []  # fmt: skip
