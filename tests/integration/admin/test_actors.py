"""Who an act is by: the user, and not what runs in this process because of it."""

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowExecutionRecord,
    WorkflowHistory,
    wait_for,
)
from general_manager.workflow.admin.acts import together
from general_manager.workflow.core.actors import current_actor
from tests.integration.conftest import confirm

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
ran_by: list[str] = []


def ask(input_data):
    wait_for("approval")
    ran_by.append(current_actor())


@pytest.mark.parametrize("log", ["default", "archive"])
def test_what_runs_after_the_commit_is_not_the_users_act(
    client, celery_engine, settings, monkeypatch, log
):
    settings.GENERAL_MANAGER = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    monkeypatch.setattr(together, "log_database", lambda: log)
    client.force_login(get_user_model().objects.create_superuser("boss"))
    ran_by.clear()
    celery_engine.start(WorkflowDefinition("w", handler=ask))
    record = WorkflowExecutionRecord.objects.get()
    url = reverse("admin:general_manager_execution_act", args=[record.pk, "answer"])
    confirm(client, url, answer="true")
    assert WorkflowHistory.objects.get(kind="resumed").by == "boss"
    assert ran_by == [""]
