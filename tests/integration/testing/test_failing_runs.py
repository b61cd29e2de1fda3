"""Runs that fail inside a test case: what their steps did is committed for the code under test."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import TestCase

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    WorkflowDefinition,
    get_workflow_engine,
    saga,
    step,
)
from general_manager.workflow.testing import advance, drain
from tests.integration.testing.test_kit_in_both_modes import MODES, in_mode
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


@pytest.fixture(params=MODES)
def mode(request):
    flows.calls.clear()
    flows.troubles.clear()
    with in_mode(request.param):
        yield request.param


def tags():
    return list(Tag.objects.order_by("pk").values_list("name", flat=True))


def ended(handler, retry=None):
    definition = WorkflowDefinition("failing", handler=handler, retry=retry)
    key = get_workflow_engine().start(definition).execution_id
    drain()
    advance(timedelta(minutes=5))
    return get_workflow_engine().status(key)


def step_and_fail(_: dict[str, Any]) -> None:
    step("first", flows.write, "first")
    raise PermanentFailure("no")


def saga_and_fail(_: dict[str, Any]) -> None:
    with saga("booking") as undo:
        step("first", flows.write, "first")
        undo("undo first", flows.write, "undone")
        raise PermanentFailure("no")


def retried(_: dict[str, Any]) -> None:
    step("first", flows.write, "first")
    step("paid", flows.note, "paid", once=True)
    step("shipped", flows.stumble, atomic=False)


def broken(_: dict[str, Any]) -> None:
    step("first", flows.write, "first")
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


def test_x4_a_failing_run_keeps_what_its_finished_steps_wrote(mode):
    assert ended(step_and_fail).state == "failed"
    assert tags() == ["first"]


def test_s1_a_saga_is_undone_in_a_test_case_as_elsewhere(mode):
    assert ended(saga_and_fail).error == "no"
    assert tags() == ["first", "undone"]


def test_x5_a_finished_once_step_is_not_in_doubt_after_a_later_failure(mode):
    flows.troubles[:] = [ConnectionError(), ConnectionError()]
    execution = ended(retried, Retry(max_attempts=5, base=10))
    assert (execution.state, execution.error) == ("completed", None)
    assert flows.calls == ["first", "paid"]
    assert tags() == ["first"]


def test_a_database_that_refuses_to_go_on_undoes_the_run_and_the_test_goes_on(mode):
    assert ended(broken).state == "failed"
    undone = connection.vendor == "postgresql"  # the others go on after a failed statement
    assert tags() == ([] if undone else ["first"])
    Tag.objects.create(name="another")


def test_e8_a_failing_run_in_a_transaction_of_the_code_under_test_is_undone():
    with in_mode("local"), transaction.atomic():
        definition = WorkflowDefinition("failing", handler=step_and_fail)
        assert get_workflow_engine().start(definition).state == "failed"
        assert tags() == []


class TestInATestCase(TestCase):
    databases = "__all__"

    def test_a_failing_run_keeps_what_its_finished_steps_wrote(self):
        for mode in MODES:
            with in_mode(mode):
                ended(step_and_fail)
                assert tags() == ["first"], mode
                Tag.objects.all().delete()

    def test_an_error_that_the_handler_catches_breaks_nothing(self):
        with in_mode("production"), pytest.raises(DatabaseError), transaction.atomic():
            broken({})
