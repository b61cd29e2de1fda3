"""What a project registers while it starts, wherever it does so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command

from general_manager.workflow import WorkflowEvent, get_event_registry
from tests.testapp.heard import heard


@pytest.mark.parametrize(
    "name", ["heard_before", "heard_at_import", "heard_after", "heard_in_workflows"]
)
def test_a_registration_survives_start_up_wherever_it_was_made(name):
    assert get_event_registry().publish(
        WorkflowEvent(f"start-up {name}", "a.b", {}, event_name=name)
    )
    assert [event.event_name for event in heard] == [name]


@pytest.mark.django_db(databases=["default", "archive"])
def test_migrations_of_declared_models_are_complete():
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


@pytest.mark.parametrize(
    ("setting", "check_id"),
    [
        ("'local'", "general_manager.E001"),
        ("{'WORKFLOW_MOED': 'local', 'WORKFLOW_ASYNC': 'yes'}", "general_manager.E002"),
        ("{'WORKFLOW_MODE': 'prod'}", "general_manager.E003"),
        ("{'WORKFLOW_EVENT_REGISTRY': 'no.where'}", "general_manager.E005"),
    ],
)
@pytest.mark.parametrize("first", ["", "from celery import current_app; current_app.finalize()\n"])
def test_a13_a_wrong_setting_is_named_by_check_though_apps_register_at_start_up(
    setting, check_id, first
):
    """Also where the Celery app was finalized before Django was set up."""
    code = (
        f"{first}"
        "from tests import settings\n"
        f"settings.GENERAL_MANAGER = {setting}\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py', 'check'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert check_id in result.stderr
    assert "SystemCheckError" in result.stderr
    assert "Traceback" not in result.stderr
