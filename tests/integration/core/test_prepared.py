"""Our own statements are prepared where a connection is used for long and nothing is in between."""

from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from django.db import Error, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from general_manager import cursors
from general_manager.cursors import PREPARES_AFTER, PREPARES_REPEATED, cursor_on, shared_cursor
from general_manager.database_errors import is_conflict
from general_manager.workflow import WorkflowEvent
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.workers.work import empty
from tests.pooler import Pooler
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL prepares them"),
]

OURS = "SELECT 'ours' || %s"


@pytest.fixture(autouse=True)
def options():
    """The project's options of the database, for new connections only."""
    given = connections.settings["default"]["OPTIONS"]
    before = dict(given)
    connection.close()
    yield given
    connection.close()
    given.clear()
    given.update(before)


@pytest.fixture
def pooler():
    settings = connections.settings["default"]
    before = {name: settings[name] for name in ("HOST", "PORT")}
    if not str(before["HOST"]).startswith("/"):
        pytest.skip("The server is not on this machine")
    pooler = Pooler(f"{before['HOST']}/.s.PGSQL.{before['PORT'] or 5432}")
    settings.update(HOST="127.0.0.1", PORT=str(pooler.port))
    yield
    connection.close()
    settings.update(before)
    pooler.close()


def ours(value="x"):
    with cursor_on(connection) as cursor:
        cursor.execute(OURS, [value])
        return cursor.fetchone()[0]


def prepare_ours():
    for _ in range(PREPARES_AFTER + PREPARES_REPEATED + 1):
        ours()


def prepared():
    """What the server has prepared for this connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall()]


def test_what_a_connection_runs_often_is_prepared_on_it():
    prepare_ours()
    assert prepared() == ["SELECT 'ours' || $1"]
    assert ours("y") == "oursy"


def test_a_cursor_that_is_shared_prepares_from_the_same_moment_on():
    with shared_cursor("default"):
        prepare_ours()
    assert prepared() == ["SELECT 'ours' || $1"]


def test_a_connection_that_is_used_for_a_short_time_costs_no_statement_more():
    ours()
    raw, made = connection.connection, []
    make = raw.cursor

    def count_one():
        made.append(make())
        return made[-1]

    raw.cursor = count_one
    for _ in range(PREPARES_AFTER - 2):
        ours()
    assert len(made) == PREPARES_AFTER - 2
    assert connection.connection.prepare_threshold is None
    assert prepared() == []


def test_the_projects_own_statements_are_not_prepared():
    prepare_ours()
    for _ in range(10):
        Tag.objects.count()
    assert prepared() == ["SELECT 'ours' || $1"]


def test_a_transaction_that_has_failed_is_asked_nothing_and_the_next_one_is():
    with suppress(Error), transaction.atomic():
        for _ in range(PREPARES_AFTER - 1):
            ours()
        with suppress(Error), connection.cursor() as cursor:
            cursor.execute("SELECT nothing")
        with cursor_on(connection) as cursor:
            cursor.execute("ROLLBACK")
    for _ in range(PREPARES_REPEATED + 2):
        ours()
    assert prepared() == ["SELECT 'ours' || $1"]


def test_plans_are_made_anew_after_some_seconds_as_a_table_may_have_grown_meanwhile():
    def look():
        with cursor_on(connection) as cursor:
            cursor.execute("SELECT id FROM growing WHERE id = %s", [1])

    def plan():
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_prepared_statements")
            [[name]] = cursor.fetchall()
            cursor.execute(f"EXPLAIN EXECUTE {name}(1)")
            return cursor.fetchone()[0].split(" on ")[0]

    with connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")
        cursor.execute("CREATE TEMPORARY TABLE growing AS SELECT 0 AS id")
        cursor.execute("CREATE UNIQUE INDEX ON growing (id)")
        cursor.execute("ANALYZE growing")
    for _ in range(PREPARES_AFTER + PREPARES_REPEATED + 1):
        look()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO growing SELECT n FROM generate_series(1, 20000) n")
    look()
    assert plan() == "Seq Scan"
    connection.connection._general_manager_use.look_at = monotonic()
    look()
    assert plan().startswith("Index")


def test_while_statements_are_logged_they_are_not_prepared_so_the_log_has_their_values():
    prepare_ours()
    with shared_cursor("default"), CaptureQueriesContext(connection) as captured:
        ours("seen")
    assert [one["sql"] for one in captured.captured_queries] == ["SELECT 'ours' || 'seen'"]
    assert ours("y") == "oursy"


def test_each_connection_is_asked_for_itself():
    prepare_ours()
    connection.close()
    for _ in range(PREPARES_REPEATED + 1):
        ours()
    assert prepared() == []


@pytest.mark.parametrize(
    "chosen",
    [
        {"prepare_threshold": None},
        {"prepare_threshold": 1},
        {"server_side_binding": True},
    ],
)
def test_a_project_that_has_chosen_for_itself_keeps_what_it_chose(options, chosen):
    options.update(chosen)
    prepare_ours()
    assert connection.connection.prepare_threshold == chosen.get("prepare_threshold")
    assert prepared() == []


def test_cursors_of_a_library_that_traces_statements_are_left_in_place(options):
    usual: Any = type(connection.cursor().cursor)
    connection.close()
    options["cursor_factory"] = type("TracingCursor", (usual,), {})
    prepare_ours()
    with cursor_on(connection) as cursor:
        assert type(cursor.cursor) is options["cursor_factory"]
    assert prepared() == []


def test_behind_a_pooler_that_gives_each_transaction_another_connection_nothing_is_prepared(
    pooler, outbox, monkeypatch
):
    made, make = [], cursors._cursor

    def record(connection, *, prepares):
        made.append(prepares)
        return make(connection, prepares=prepares)

    monkeypatch.setattr(cursors, "_cursor", record)
    outbox.register("x", handler=lambda event: Tag.objects.create(name=event.event_id))
    for number in range(PREPARES_AFTER):
        outbox.publish(WorkflowEvent(str(number), "a.b", {}, event_name="x"))
    empty("default")
    prepare_ours()
    assert Tag.objects.count() == PREPARES_AFTER
    assert set(made) == {False}


def test_this_pooler_does_lose_what_is_prepared(pooler, monkeypatch):
    """Else the test before this one could not fail."""
    monkeypatch.setattr(cursors, "_may_prepare", lambda connection: True)
    with pytest.raises(Error) as caught:
        for _ in range(PREPARES_AFTER + PREPARES_REPEATED + 3):
            with transaction.atomic():
                ours()
    assert is_conflict(caught.value)


def test_what_is_no_longer_prepared_is_run_again_outside_of_a_transaction():
    prepare_ours()
    connection.connection.pgconn.exec_(b"DEALLOCATE ALL")
    assert ours("y") == "oursy"
    assert ours("z") == "oursz"
    assert prepared() == []


def test_in_a_transaction_it_is_a_conflict_and_the_next_transaction_does_without():
    prepare_ours()
    connection.connection.pgconn.exec_(b"DEALLOCATE ALL")
    with pytest.raises(Error) as caught, transaction.atomic():
        ours()
    assert is_conflict(caught.value)
    with transaction.atomic():
        assert ours("y") == "oursy"
    assert prepared() == []


def test_what_the_project_prepared_itself_is_its_own_affair():
    prepare_ours()
    with pytest.raises(Error) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("EXECUTE theirs")
    assert not is_conflict(caught.value)


def test_a_delivery_whose_statements_are_no_longer_prepared_is_not_charged(outbox):
    def forget(event):
        if event.event_id == "7":
            connection.connection.pgconn.exec_(b"DEALLOCATE ALL")
        Tag.objects.create(name=event.event_id)

    outbox.register("x", handler=forget)
    with shared_cursor("default"):
        prepare_ours()
        outbox.publish_many(
            WorkflowEvent(str(number), "a.b", {}, event_name="x") for number in range(20)
        )
        empty("default")
        empty("default")
    assert Tag.objects.count() == 20
    charged = WorkflowDeliveryAttempt.objects.exclude(crashes=0, first_failed_at=None)
    assert not charged.exists()


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_statement_whose_columns_have_got_other_types_meanwhile_is_run_again(in_transaction):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE changing AS SELECT 1 AS number")
    for _ in range(PREPARES_AFTER + PREPARES_REPEATED + 1):
        with cursor_on(connection) as cursor:
            cursor.execute("SELECT number FROM changing WHERE number > %s", [0])
    connection.connection.pgconn.exec_(b"ALTER TABLE changing ALTER number TYPE text")
    connection.connection.pgconn.exec_(b"ALTER TABLE changing ALTER number TYPE bigint USING 1")
    if in_transaction:
        with pytest.raises(Error) as caught, transaction.atomic(), cursor_on(connection) as cursor:
            cursor.execute("SELECT number FROM changing WHERE number > %s", [0])
        assert is_conflict(caught.value)
    with cursor_on(connection) as cursor:
        cursor.execute("SELECT number FROM changing WHERE number > %s", [0])
        assert cursor.fetchone() == (1,)


def test_no_statement_of_a_handler_is_kept_by_the_driver(outbox):
    outbox.register(
        "x", handler=lambda event: list(Tag.objects.filter(name=event.event_id + "x" * 100_000))
    )
    outbox.publish_many(WorkflowEvent(str(one), "a.b", {}, event_name="x") for one in range(100))
    empty("default")
    kept = sum(len(query) for query, _ in connection.connection._prepared._counts)
    assert kept < 500_000


def test_ours_are_prepared_also_where_handlers_make_many_other_statements(outbox):
    def handle(event):
        for number in range(10):
            Tag.objects.filter(name=f"{event.event_id} {number}").exists()

    outbox.register("x", handler=handle)
    for number in range(10):
        outbox.publish_many(
            WorkflowEvent(f"{number} {one}", "a.b", {}, event_name="x") for one in range(20)
        )
        empty("default")
    assert len(prepared()) > 5


def test_the_projects_own_threshold_stays_what_it_set():
    connection.ensure_connection()
    connection.connection.prepare_threshold = 7
    prepare_ours()
    assert connection.connection.prepare_threshold == 7


def test_in_a_pipeline_nothing_is_asked(outbox):
    outbox.register("x", handler=lambda event: None)
    with transaction.atomic():
        connection.ensure_connection()
        with connection.connection.pipeline():
            for number in range(PREPARES_AFTER + 10):
                outbox.publish(WorkflowEvent(str(number), "a.b", {}, event_name="x"))
    assert WorkflowOutbox.objects.count() == PREPARES_AFTER + 10


def test_a_grouped_delivery_whose_statement_is_no_longer_prepared_is_not_charged(outbox):
    def forget(event):
        if event.event_id == "3":
            connection.connection.pgconn.exec_(b"DEALLOCATE ALL")
        outbox.publish_many([WorkflowEvent(f"{event.event_id} next", "a.b", {}, event_name="no")])

    outbox.register("x", handler=forget, grouped=True)
    with shared_cursor("default"):
        prepare_ours()
        for number in range(PREPARES_REPEATED + 1):
            outbox.publish_many([WorkflowEvent(f"w{number}", "a.b", {}, event_name="no")])
        outbox.publish_many(
            WorkflowEvent(str(number), "a.b", {}, event_name="x") for number in range(8)
        )
        empty("default")
        empty("default")
    charged = WorkflowDeliveryAttempt.objects.exclude(crashes=0, first_failed_at=None)
    assert not charged.exists()
    assert WorkflowDeliveryAttempt.objects.filter(status="completed").count() == 8
