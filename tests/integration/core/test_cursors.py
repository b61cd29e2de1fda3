"""One cursor for several statements, where that is cheaper and holds nothing."""

import pytest
from django.db import DatabaseError, connection, transaction

from general_manager.cursors import cursor_on, shared_cursor
from general_manager.workflow import WorkflowEvent
from general_manager.workflow.workers.work import empty

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def ask(question: str = "SELECT 1") -> tuple[object, object]:
    with cursor_on(connection) as cursor:
        cursor.execute(question)
        return cursor, cursor.fetchone()[0]


def test_inside_one_cursor_serves_all_statements_where_an_open_one_holds_no_lock():
    with shared_cursor("default"):
        with shared_cursor("default"):
            first, _ = ask()
        second, answer = ask("SELECT 2")
    assert answer == 2
    assert (first is second) == (connection.vendor == "postgresql")
    after, _ = ask()
    assert after is not second


def test_a_connection_that_was_replaced_meanwhile_has_a_cursor_of_its_own():
    with shared_cursor("default"):
        first, _ = ask()
        connection.close()
        second, answer = ask()
    assert answer == 1
    assert second is not first


def test_a_cursor_is_made_when_it_is_first_wanted_and_closed_at_the_end(monkeypatch):
    made, make = [], connection.cursor

    def count_one():
        made.append(make())
        return made[-1]

    monkeypatch.setattr(connection, "cursor", count_one)
    with shared_cursor("default"):
        assert made == []
        ask()
        assert made
    assert connection.vendor != "postgresql" or made[0].closed


def test_a_statement_that_fails_leaves_the_shared_cursor_to_the_next_one():
    with shared_cursor("default"):
        first, _ = ask()
        with pytest.raises(DatabaseError), transaction.atomic():
            ask("SELECT nothing FROM nowhere")
        second, answer = ask("SELECT 3")
    assert answer == 3
    assert (first is second) == (connection.vendor == "postgresql")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the others share none")
def test_a_workers_turn_makes_few_cursors_however_many_events_it_delivers(outbox, monkeypatch):
    made = []
    make = connection.create_cursor

    def count_one(name=None):
        made.append(name)
        return make(name)

    def deliver(number: int) -> int:
        outbox.publish_many(
            WorkflowEvent(f"{number} {one}", "a.b", {}, event_name="x") for one in range(number)
        )
        made.clear()
        empty("default")
        return len(made)

    outbox.register("x", handler=lambda event: None)
    monkeypatch.setattr(connection, "create_cursor", count_one)
    deliver(3)  # statements that Django compiles once, and settings that are read once
    few = deliver(4)
    assert deliver(40) <= few + 4  # what a busy worker says of itself, by statements of Django's
