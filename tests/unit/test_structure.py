"""The floors, and what importing costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import general_manager
from general_manager import workflow
from tests.bare import PACKAGE, run_bare

CHECKOUT = Path(__file__).parents[2]


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
                 "executor", "run_store", "sweep", "tasks", "checks", "admin",
                 "repairs", "draining", "testing", "overview", "timeline", "health", "replaying",
                 "health_view", "metrics", "pruning", "story", "dead_letters",
                 "health_backend", "urls", "databases", "lookup")  # fmt: skip
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
    assert sorted(workflow._WHERE) == sorted(workflow.__all__) == sorted(set(workflow.__all__))
    assert set(workflow.__all__) <= set(dir(workflow))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = workflow.nonsense
    assert general_manager.GeneralManager.__name__ == "GeneralManager"
    assert "track_changes" in dir(general_manager)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = general_manager.nonsense


def test_no_file_is_past_three_hundred_lines():
    long = [
        f"{path.name}: {len(path.read_text().splitlines())}"
        for path in PACKAGE.rglob("*.py")
        if "migrations" not in path.parts and len(path.read_text().splitlines()) > 300
    ]
    assert long == []


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
    assert len(promises) == len(set(promises)) == 14 + 9 + 4
    assert [(file, name) for file, name in named
            if not any(one.startswith(name) for one in there.get(file, []))] == []  # fmt: skip
