"""Savepoints of grouped deliveries, which are set when a handler first uses the database."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from django.db import connection, connections, transaction

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import WorkflowDeliveryAttempt
from general_manager.workflow.outbox import group
from general_manager.workflow.outbox.drain import drain
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
needs_psycopg = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="each is set and released around its handler there"
)
BAD = "1"
"""The event in the middle, whose handler raises."""


@pytest.fixture(autouse=True)
def _time_for_groups(monkeypatch):
    """However slow the machine is."""
    monkeypatch.setattr(group, "GROUP_SECONDS", 60)


@pytest.fixture
def deliver(outbox):
    """Deliver *count* events to a grouped handler; returns how often it was called for each."""

    def deliver(handler: Callable[[str], object], count: int = 3) -> dict[str, int]:
        calls: Counter[str] = Counter()

        def handle(event: WorkflowEvent) -> None:
            calls[event.event_id] += 1
            handler(event.event_id)

        outbox.register("x", handler=handle, grouped=True, registration_id="r")
        outbox.publish_many(
            WorkflowEvent(str(one), "a.b", {}, event_name="x") for one in range(count)
        )
        drain("default")
        return dict(calls)

    return deliver


@pytest.fixture
def sent() -> Iterator[Counter[str]]:
    """How often each command that manages savepoints was sent, past Django or not.

    Over a new connection: it is not used for long enough to have a cursor that prepares.
    """
    connection.close()
    connection.ensure_connection()
    found: Counter[str] = Counter()
    kind = type(connection.connection.cursor())
    execute = kind.execute

    def count_one(cursor, query, *args, **options):
        command = str(query).split()[0]
        if command in ("SAVEPOINT", "RELEASE", "ROLLBACK"):
            found[command] += 1
        return execute(cursor, query, *args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "execute", count_one)
        yield found


def tags() -> list[str]:
    return sorted(Tag.objects.values_list("name", flat=True))


def statuses() -> dict[str, str]:
    rows = WorkflowDeliveryAttempt.objects.values_list("outbox__event__event_id", "status")
    return dict(rows)


def by_the_orm(name: str) -> None:
    Tag.objects.create(name=name)


def by_a_cursor(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO testapp_tag (name) VALUES (%s)", [name])


def by_many(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO testapp_tag (name) VALUES (%s)", [[name]])


def in_a_block(name: str) -> None:
    with transaction.atomic():
        Tag.objects.create(name=name)


def after_a_block_that_is_undone(name: str) -> None:
    with suppress(ValueError), transaction.atomic():
        Tag.objects.create(name="undone")
        raise ValueError
    Tag.objects.create(name=name)


def after_a_look(name: str) -> None:
    assert Tag.objects.filter(name=name).first() is None
    Tag.objects.create(name=name)


def by_copy(name: str) -> None:
    rows = "COPY testapp_tag (name) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(rows) as copy:
        copy.write_row([name])


def by_the_driver(name: str) -> None:
    connection.connection.execute("INSERT INTO testapp_tag (name) VALUES (%s)", [name])


def by_a_cursor_on_the_server(name: str) -> None:
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT testapp_insert_tag(%s)", [name])
        cursor.fetchall()


def by_a_block_of_the_driver(name: str) -> None:
    with connection.connection.transaction():
        Tag.objects.create(name=name)


@pytest.fixture
def _function():
    """A function that writes, for cursors on the server, which only read otherwise."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION testapp_insert_tag(new text) RETURNS int LANGUAGE sql AS "
            "'INSERT INTO testapp_tag (name) SELECT new RETURNING 1'"
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION testapp_insert_tag(text)")


EVERYWHERE = [by_the_orm, by_a_cursor, by_many, in_a_block, after_a_block_that_is_undone]
WITH_PSYCOPG = [
    pytest.param(way, marks=needs_psycopg)
    for way in (by_copy, by_the_driver, by_a_block_of_the_driver, by_a_cursor_on_the_server)
]


def fail_after(write: Callable[[str], None]) -> Callable[[str], None]:
    def handle(name: str) -> None:
        write(name)
        if name == BAD:
            raise ValueError("own")

    return handle


@pytest.mark.parametrize("way", [*EVERYWHERE, after_a_look, *WITH_PSYCOPG])
def test_k2_what_a_handler_wrote_before_it_raised_is_undone_however_it_wrote(deliver, way, request):
    if way is by_a_cursor_on_the_server:
        request.getfixturevalue("_function")
    assert deliver(fail_after(way)) == {"0": 1, "1": 1, "2": 1}
    assert tags() == ["0", "2"]
    assert statuses() == {"0": "completed", "1": "failed", "2": "completed"}


def test_k2_an_execution_that_a_handler_started_before_it_raised_is_not_there(
    deliver, celery_engine
):
    """By the statement of the worker itself, whose cursor was there before."""
    workflow = WorkflowDefinition("w", handler=flows.echo)
    deliver(fail_after(lambda name: celery_engine.start(workflow, {"event": name})))
    started = [one.input_data["event"] for one in celery_engine.executions()]
    assert sorted(started) == ["0", "2"]
    assert statuses() == {"0": "completed", "1": "failed", "2": "completed"}


@pytest.mark.parametrize("way", EVERYWHERE)
def test_a_handler_that_raises_first_undoes_nothing_of_the_others(deliver, way):
    def handle(name: str) -> None:
        if name == BAD:
            raise ValueError("own")
        way(name)

    assert deliver(handle) == {"0": 1, "1": 1, "2": 1}
    assert tags() == ["0", "2"]


def test_hooks_of_a_handler_that_raised_are_dropped_and_those_of_others_called(deliver):
    called: list[str] = []

    def handle(name: str) -> None:
        transaction.on_commit(lambda: called.append(name))
        if name == BAD:
            raise ValueError("own")

    deliver(handle)
    assert called == ["0", "2"]


def test_an_error_that_a_handler_catches_outside_of_a_block_fails_it_alone(deliver):
    """Alone, that is its failure; what the others wrote stays."""

    def handle(name: str) -> None:
        by_a_cursor(name)
        if name == BAD:
            with suppress(Exception), connection.cursor() as cursor:
                cursor.execute("SELECT nothing FROM nowhere")
            transaction.set_rollback(True)

    assert deliver(handle) == {"0": 2, "1": 2, "2": 1}
    assert tags() == ["0", "2"]
    assert statuses() == {"0": "completed", "1": "failed", "2": "completed"}


@needs_psycopg
def test_an_error_that_only_the_driver_saw_undoes_its_handler_alone(deliver):
    def handle(name: str) -> None:
        by_a_cursor(name)
        if name == BAD:
            with suppress(Exception):
                connection.connection.execute("SELECT nothing FROM nowhere")

    assert deliver(handle)["2"] == 1
    assert tags() == ["0", "2"]
    assert statuses() == {"0": "completed", "2": "completed"}


@needs_psycopg
@pytest.mark.parametrize("end", ["ROLLBACK; BEGIN", "ROLLBACK", "COMMIT; BEGIN"])
def test_a_handler_that_ends_the_shared_transaction_loses_nothing_of_the_others(deliver, end):
    """It goes on in another one, in which what the first ones wrote is missing."""
    ended: list[str] = []

    def handle(name: str) -> None:
        if end.startswith("COMMIT") and Tag.objects.filter(name=name).exists():
            return  # effects that cannot be undone are repeated
        by_a_cursor(name)
        if name == BAD and not ended:
            ended.append(name)
            with connection.cursor() as cursor:
                cursor.execute(end)

    deliver(handle)
    assert tags() == ["0", "1", "2"]
    assert set(statuses().values()) == {"completed"}


@needs_psycopg
def test_a_handler_that_does_not_use_the_database_costs_no_savepoint(deliver, sent):
    assert deliver(lambda name: None, 10) == {str(one): 1 for one in range(10)}
    assert dict(sent) == {}


@needs_psycopg
def test_handlers_that_write_cost_a_savepoint_each_and_one_release(deliver, sent):
    deliver(by_the_orm, 10)
    assert dict(sent) == {"SAVEPOINT": 10, "RELEASE": 1}
    assert tags() == sorted(map(str, range(10)))


@needs_psycopg
def test_the_connection_is_left_as_it_was(deliver):
    connection.ensure_connection()
    django, driver = connections["default"], connection.connection
    before = set(vars(django)), set(vars(driver))
    deliver(fail_after(by_the_orm))
    assert connection.connection is driver
    changed = (set(vars(django)) - before[0]) | (set(vars(driver)) - before[1])
    assert {one for one in changed if "general_manager" not in one} == set()
    assert connection.execute_wrappers == []
