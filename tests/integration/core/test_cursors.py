"""One cursor for several statements, where that is cheaper and holds nothing."""

import pytest
from django.db import connection

from general_manager.cursors import cursor_on, shared_cursor

pytestmark = pytest.mark.django_db(transaction=True)


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
