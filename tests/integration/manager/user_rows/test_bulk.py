"""Bulk changes that are reported on purpose, in a bounded number of statements."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import (
    IntegrityError,
    NotSupportedError,
    connection,
    connections,
    models,
    transaction,
)
from django.db.models import F
from django.test import override_settings

from general_manager import PublishingQuerySet
from general_manager.manager.signals import post_data_change, pre_data_change
from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.outbox.registry import DatabaseEventRegistry
from tests.integration.conftest import data_statements
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import brief, reported
from tests.testapp.models import Invoice, Tag, Truck

pytestmark = pytest.mark.django_db(databases=["default", "archive"])
PRODUCTION = {"WORKFLOW_MODE": "production", "WORKFLOW_SIGNAL_BRIDGE": True}


def rows_of(model: Any) -> Any:
    return PublishingQuerySet(model)


def make(count: int, **values: Any) -> list[Any]:
    wanted = [Invoice(number=str(number), **values) for number in range(count)]
    return Invoice.objects.bulk_create(wanted)


def test_an_update_reports_each_row_that_really_changed():
    make(3)
    Invoice.objects.filter(number="1").update(status="paid")
    with reported() as changes:
        assert rows_of(Invoice).filter(number__lt="3").update_and_publish(status="paid") == 3
    assert [(one.identification, dict(one.changes)) for one in changes] == [
        ({"id": row.pk}, {"status": ("open", "paid")})
        for row in Invoice.objects.exclude(number="1").order_by("pk")
    ]
    assert {one.manager for one in changes} == {"Invoice"}
    assert not Invoice.objects.exclude(status="paid").exists()


def test_an_update_by_an_expression_reports_what_the_database_made_of_it():
    make(2, total=1)
    with reported() as changes:
        rows_of(Invoice).all().update_and_publish(total=F("total") + 1)
    assert [one.changes["total"] for one in changes] == [(1, 2), (1, 2)]


def test_creations_report_the_rows_as_they_are_stored():
    with reported() as changes:
        made = rows_of(Invoice).bulk_create_and_publish([Invoice(number="1", total="2")])
    assert [(one.action, one.identification) for one in changes] == [("create", {"id": made[0].pk})]
    assert str(changes[0].new_values["total"]) == "2.00"


def test_a_bulk_update_reports_what_changed():
    rows = make(3)
    rows[0].status, rows[1].note = "paid", "not tracked"
    with reported() as changes:
        assert rows_of(Invoice).bulk_update_and_publish(rows, ["status", "note"]) == 3
    assert [dict(one.changes) for one in changes] == [{"status": ("open", "paid")}]
    assert Invoice.objects.get(number="1").note == "not tracked"


def test_a_model_that_is_not_tracked_is_reported_whole():
    with reported() as changes:
        rows_of(Tag).bulk_create_and_publish([Tag(name="a")])
        rows_of(Tag).all().update_and_publish(name="b")
    assert brief(changes) == [("create", "Tag"), ("update", "Tag")]


def test_a_childs_rows_are_reported_by_the_rule_of_inheritance():
    child = KINDS["ChildOfTracked"].tracked
    child.objects.create()
    with reported() as changes:
        rows_of(child).all().update_and_publish(load=5)
        rows_of(child).all().update_and_publish(name="b")
    assert brief(changes) == [("update", "TrackedChildOfTracked"), ("update", "TrackedParent")]
    Truck.objects.create(name="old")
    with reported() as changes:
        rows_of(Truck).all().update_and_publish(name="new")
    assert brief(changes) == [("update", "Vehicle")]


def test_a_row_that_no_longer_matches_when_its_lock_is_there_is_left_alone():
    make(2)

    def change_the_other(sender, **_):
        Invoice.objects.filter(number="1").update(status="void")

    class Late(PublishingQuerySet[Any]):
        def using(self, alias: Any) -> Any:
            change_the_other(None)
            return super().using(alias)

    with reported() as changes:
        assert Late(Invoice).filter(status="open").update_and_publish(status="paid") == 1
    assert len(changes) == 1
    assert Invoice.objects.get(number="1").status == "void"


def test_a_receiver_that_raises_undoes_the_whole_verb():
    make(2)

    def refuse(change, **_):
        if change.identification["id"] == Invoice.objects.latest("pk").pk:
            raise RuntimeError("refused")

    post_data_change.connect(refuse)
    try:
        with pytest.raises(RuntimeError), transaction.atomic():
            rows_of(Invoice).all().update_and_publish(status="paid")
    finally:
        post_data_change.disconnect(refuse)
    assert set(Invoice.objects.values_list("status", flat=True)) == {"open"}


def test_receivers_hear_of_a_bulk_change_before_it():
    make(2)
    heard = []

    def hear(sender, action, values, instance, **_):
        heard.append((sender, action, values, instance))

    pre_data_change.connect(hear)
    try:
        rows_of(Invoice).all().update_and_publish(status="paid")
    finally:
        pre_data_change.disconnect(hear)
    assert heard == [(Invoice, "update", {"status": "paid"}, None)] * 2


def test_what_cannot_be_reported_is_refused():
    rows = make(1)
    with pytest.raises(TypeError, match=r"Invoice\.id identifies the row"):
        rows_of(Invoice).all().update_and_publish(id=5)
    with pytest.raises(TypeError, match="slice"):
        rows_of(Invoice).all()[:1].update_and_publish(status="paid")
    with pytest.raises(IntegrityError), transaction.atomic():
        rows_of(Invoice).bulk_create_and_publish([Invoice(pk=rows[0].pk)])
    model = KINDS["VolatileKey"].tracked
    if not connection.features.can_return_rows_from_bulk_insert:
        with pytest.raises(NotSupportedError):
            rows_of(model).bulk_create_and_publish([model()])


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_the_async_verbs_report_too():
    async def live() -> None:
        rows = await rows_of(Invoice).abulk_create_and_publish([Invoice(number="1")])
        await rows_of(Invoice).all().aupdate_and_publish(status="paid")
        rows[0].status = "sent"
        await rows_of(Invoice).abulk_update_and_publish(rows, ["status"])
        await sync_to_async(connections.close_all)()

    with reported() as changes:
        asyncio.run(live())
    assert [one.action for one in changes] == ["create", "update", "update"]


def test_what_a_receiver_saves_during_a_bulk_verb_is_published_before_the_chunk(
    outbox: DatabaseEventRegistry,
):
    def again(instance: Any, action: str, **_: Any) -> None:
        if action == "create" and instance.number == "0":
            Invoice.objects.create(number="by a receiver")

    post_data_change.connect(again, sender=Invoice)
    try:
        with override_settings(GENERAL_MANAGER=PRODUCTION):
            made = rows_of(Invoice).bulk_create_and_publish([Invoice(number="0"), Invoice()])
    finally:
        post_data_change.disconnect(again, sender=Invoice)
    other = Invoice.objects.get(number="by a receiver")
    owed = WorkflowOutbox.objects.order_by("pk")  # the order in which they are delivered
    assert [one.event.payload["identification"]["id"] for one in owed] == [
        other.pk,
        *(one.pk for one in made),
    ]


def test_ten_thousand_rows_take_a_bounded_number_of_statements(outbox: DatabaseEventRegistry):
    outbox.register("manager_updated", handler=print)
    with override_settings(GENERAL_MANAGER=PRODUCTION):
        with data_statements() as statements:
            rows_of(Invoice).bulk_create_and_publish([Invoice() for _ in range(10_000)])
        assert len(statements) < 700
        with data_statements() as statements:
            rows_of(Invoice).all().update_and_publish(status="paid")
        assert len(statements) < 400
    assert WorkflowEventRecord.objects.count() == 20_000
    assert WorkflowOutbox.objects.count() >= 10_000
    # Twice the rows, twice the statements: no more for each row.
    with override_settings(GENERAL_MANAGER=PRODUCTION), data_statements() as fewer:
        half = Invoice.objects.order_by("pk")[5_000].pk
        rows_of(Invoice).filter(pk__lt=half).update_and_publish(status="void")
    assert len(fewer) <= len(statements) / 2 + 10


def test_the_verbs_are_a_managers_too():
    model = type(
        "Checked",
        (models.Model,),
        {
            "__module__": __name__,
            "Meta": type("Meta", (), {"app_label": "elsewhere"}),
            "objects": PublishingQuerySet.as_manager(),
        },
    )
    for name in ("update_and_publish", "bulk_create_and_publish", "bulk_update_and_publish"):
        assert getattr(model.objects, name).alters_data  # type: ignore[attr-defined]
        assert getattr(model.objects.all(), f"a{name}").alters_data  # type: ignore[attr-defined]
