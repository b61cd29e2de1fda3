"""Settings of the session that user code leaves behind, under which our statements are refused."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections

from general_manager.workflow import WorkflowDefinition, step
from general_manager.workflow.core.connections import discard, persist, unit_of_work
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.transport.base import TICK, WORK
from tests.integration.core.test_lost_connections import as_a_worker
from tests.integration.core.test_sound_connections import make_event, seen_by_others
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

SETTINGS = {
    "postgresql": [
        "SET default_transaction_read_only = on",
        "SET search_path = pg_catalog",
        "SET ROLE pg_monitor",
    ],
    "mysql": ["SET SESSION TRANSACTION READ ONLY", "USE information_schema"],
    "sqlite": ["PRAGMA query_only = ON"],
}[connection.vendor]


@pytest.fixture(autouse=True)
def _nothing_left():
    to_set.clear()
    yield
    for one in connections.all(initialized_only=True):
        one.close()


to_set: list[str] = []


def set_and_leave():
    if to_set:
        with connection.cursor() as cursor:
            cursor.execute(to_set.pop())


def step_that_sets_its_session(input_data):
    step("first", set_and_leave, atomic=False)
    step("second", flows.write, "second")


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_earlier_code_has_set_stops_no_task(outbox, celery_engine, setting):
    outbox.register("x", handler=lambda event: flows.write("delivered"))
    outbox.publish(make_event())
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps))
    to_set.append(setting)
    set_and_leave()
    as_a_worker(WORK, "default")
    assert seen_by_others() == ["delivered", "first", "second"]
    assert celery_engine.status(execution.execution_id).state == "completed"


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_handler_has_set_stops_neither_its_own_outcome_nor_its_neighbours(outbox, setting):
    outbox.register("x", handler=lambda event: set_and_leave(), atomic=False, registration_id="x")
    outbox.register("x", handler=lambda event: flows.write(event.event_id))
    outbox.publish_many([make_event(str(number)) for number in range(3)])
    to_set.append(setting)
    as_a_worker(WORK, "default")
    assert seen_by_others() == ["0", "1", "2"]
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"processed"}
    assert WorkflowDeliveryAttempt.objects.filter(status="completed").count() == 6


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_step_has_set_stops_no_later_step(celery_engine, setting):
    execution = celery_engine.start(WorkflowDefinition("w", handler=step_that_sets_its_session))
    to_set.append(setting)
    as_a_worker(WORK, "default")
    assert celery_engine.status(execution.execution_id).state == "completed"
    assert seen_by_others() == ["second"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_task_that_failed_leaves_no_session_to_the_next(outbox, setting):
    to_set.append(setting)
    set_and_leave()
    with pytest.raises(DatabaseError), unit_of_work(outermost=True):
        Tag.objects.create(name="refused")
    with unit_of_work(outermost=True):
        Tag.objects.create(name="written")
    as_a_worker(TICK)
    assert seen_by_others() == ["written"]


def test_a_statement_that_every_session_refuses_is_tried_twice():
    tried = []

    def write():
        tried.append(1)
        with connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")

    with pytest.raises(DatabaseError):
        persist("default", write)
    assert len(tried) == 2


def test_what_the_data_is_refused_for_is_not_tried_again():
    tried = []

    def write():
        tried.append(1)
        Tag.objects.create(pk=Tag.objects.create(name="first").pk, name="second")

    with pytest.raises(IntegrityError):
        persist("default", write)
    assert len(tried) == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Django pools PostgreSQL's only")
def test_a_discarded_connection_is_not_lent_again_by_its_pool(monkeypatch):
    returned = []
    wrapper: Any = connections["default"]
    wrapper.ensure_connection()
    raw = wrapper.connection
    pool = SimpleNamespace(putconn=lambda one: returned.append(bool(one.closed)))
    raw._pool = pool
    monkeypatch.setattr(type(wrapper), "pool", pool)
    monkeypatch.setitem(wrapper.settings_dict["OPTIONS"], "pool", True)
    discard(wrapper, "a statement failed")
    assert (returned, wrapper.connection) == ([True], None)
