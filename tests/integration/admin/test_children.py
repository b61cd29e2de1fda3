"""A family on the pages: children with their outcomes, links both ways, and what is waited for."""

import pytest
from django.core.management import call_command
from django.urls import reverse

from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowExecutionRecord
from tests.testapp import plays
from tests.testapp.families import BOOK

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def family(celery_engine):
    """A parent that waits, a child that is waiting, and one that is held."""
    plays.reset()
    given = {"pages": [{"n": 1, "waits": True}, {"n": 2}], "options": {"at_once": 1}}
    parent = celery_engine.start(BOOK, given).execution_id
    run(parent, "default")
    first, second = WorkflowExecutionRecord.objects.filter(parent=parent).order_by("pk")
    run(first.execution_id, "default")
    yield parent, first, second
    plays.reset()


def page(client, record):
    name = "admin:general_manager_workflowexecutionrecord_change"
    return client.get(reverse(name, args=[record.pk])).content.decode()


def by_id(execution_id):
    return reverse("admin:general_manager_execution_by_id", args=[execution_id])


def test_the_tree_is_shown_both_ways(admin_client, family):
    parent, first, second = family
    record = WorkflowExecutionRecord.objects.get(execution_id=parent)
    above = page(admin_client, record)
    assert "0 of 2 children are over" in above
    assert by_id(first.execution_id) in above
    assert by_id(second.execution_id) in above
    assert "Waiting for children:" in above
    assert by_id(parent) in page(admin_client, first)


def test_the_list_says_what_is_waited_for(admin_client, family):
    url = reverse("admin:general_manager_workflowexecutionrecord_changelist")
    shown = admin_client.get(url).content.decode()
    assert "waiting for children, 0 of 2" in shown
    assert "held until another child of its parent is over" in shown


def test_neither_a_held_child_nor_its_parent_can_be_woken_there(admin_client, family):
    parent, _, second = family
    for record in (WorkflowExecutionRecord.objects.get(execution_id=parent), second):
        url = reverse("admin:general_manager_execution_act", args=[record.pk, "wake"])
        assert url not in page(admin_client, record)


def test_a_trace_shows_the_children_and_the_parent(family, capsys):
    parent, first, second = family
    call_command("workflow_trace", parent)
    shown = capsys.readouterr().out
    assert "pages: 0 of 2 over" in shown
    assert f"0: waiting {first.execution_id}" in shown
    assert f"1: pending {second.execution_id}" in shown
    call_command("workflow_trace", first.execution_id)
    assert parent in capsys.readouterr().out
