"""What a project registers while it starts, wherever it does so."""

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
