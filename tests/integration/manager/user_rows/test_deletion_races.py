"""A deletion is reported once, by the transaction whose DELETE removed the row, as it was then."""

from threading import Event, Thread
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models.deletion import Collector

from tests.integration.manager.user_rows.test_deletions import names
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import reported

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
Row: Any = KINDS["AutoKey"].tracked
Tree: Any = KINDS["Ordered"].tracked
Child: Any = KINDS["ChildOfTracked"].tracked


def in_a_race(first: Any, second: Any) -> None:
    """*second* begins while the transaction of *first* is open, and waits for it."""
    done, may_end = Event(), Event()

    def lead() -> None:
        try:
            with transaction.atomic():
                first()
                done.set()
                may_end.wait(1)
        finally:
            done.set()
            connections.close_all()

    def follow() -> None:
        try:
            done.wait(30)
            second()
        finally:
            connections.close_all()

    threads = [Thread(target=lead), Thread(target=follow)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)


waiting = pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time")


@waiting
@pytest.mark.parametrize("model", [Row, Tree, Child])
@pytest.mark.parametrize("way", ["queryset", "deferred", "instance", "mixed"])
def test_of_two_transactions_that_delete_a_row_the_one_that_removed_it_reports_it(model, way):
    row = model.objects.create(name="a")
    copies = [model.objects.get(pk=row.pk) for _ in range(2)]
    ways = {
        "queryset": [model.objects.filter(pk=row.pk).delete] * 2,
        "deferred": [model.objects.filter(pk=row.pk).only("pk").delete] * 2,
        "instance": [one.delete for one in copies],
        "mixed": [copies[0].delete, model.objects.filter(pk=row.pk).delete],
    }
    with reported() as changes:
        in_a_race(*ways[way])
    assert {one.action for one in changes} == {"delete"}
    assert len(changes) == (2 if model is Child else 1)


@waiting
def test_a_deletion_reports_what_another_transaction_made_of_the_row_meanwhile():
    row = Row.objects.create(name="read")
    with reported() as changes:
        in_a_race(
            lambda: Row.objects.filter(pk=row.pk).update(name="removed"),
            Row.objects.filter(pk=row.pk).delete,
        )
    assert names(changes) == ["removed"]


def test_of_rows_that_are_partly_gone_the_others_are_reported():
    rows = [Row.objects.create(name=name) for name in "abc"]
    collector = Collector(using="default")
    collector.collect(list(Row.objects.all()))
    Row.objects.filter(pk=rows[1].pk)._raw_delete(using="default")
    with reported() as changes:
        assert collector.delete() == (2, {"rowapp.TrackedAutoKey": 2})
    assert names(changes) == ["a", "c"]


def test_more_rows_than_one_statement_deletes_are_reported_each():
    Row.objects.bulk_create([Row(name=str(number)) for number in range(250)])
    with reported() as changes:
        assert Row.objects.all().delete()[0] == 250
    assert len({one.identification["id"] for one in changes}) == len(changes) == 250


def test_where_a_statement_is_not_recognised_what_was_gone_before_is_not_reported(monkeypatch):
    monkeypatch.setattr("general_manager.manager.deletions.removing._is_deletion", lambda *_: False)
    row = Row.objects.create(name="b")
    Row.objects.filter(pk=row.pk)._raw_delete(using="default")
    with reported() as changes:
        Row.objects.create(name="c").delete()
        Row.objects.create(name="d")
        Row.objects.all().delete()
        row.delete()
    assert names(one for one in changes if one.action == "delete") == ["c", "d"]
