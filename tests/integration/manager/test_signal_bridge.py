"""Managers' changes as events: after commit, not at all after a rollback."""

from datetime import date

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction
from django.test import override_settings
from django.utils.functional import SimpleLazyObject

from general_manager.manager import DataChange, FieldChange
from general_manager.manager.signals import post_data_change
from general_manager.workflow import InMemoryEventRegistry
from general_manager.workflow.signal_bridge import (
    _UID,
    SOURCE,
    connect_workflow_signal_bridge,
    disconnect_workflow_signal_bridge,
    event_of,
    follow_the_setting,
    listen,
)
from tests.testapp.models import ArchivedProject, Invoice, InvoiceDesk, Person, Project

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
ON = {"WORKFLOW_SIGNAL_BRIDGE": True}


@pytest.fixture(autouse=True)
def _as_the_setting_says():
    yield
    follow_the_setting()


@pytest.fixture
def events(event_registry):
    seen = []
    for name in ("manager_created", "manager_updated", "manager_deleted"):
        event_registry.register(name, handler=seen.append)
    return seen


@override_settings(GENERAL_MANAGER=ON)
def test_the_three_changes_become_the_three_events(events):
    person = Person.create(name="Ada")
    project = Project.create(name="Apollo", owner=person)
    project.update(status="active")
    key = project.id
    project.delete()
    _, created, updated, deleted = events
    assert created.event_type == "general_manager.manager.created"
    assert created.payload["manager"] == "Project"
    assert created.payload["identification"] == {"id": key}
    assert created.payload["values"]["name"] == "Apollo"
    assert created.payload["values"]["owner"] == person.id
    assert updated.event_type == "general_manager.manager.updated"
    assert updated.payload["changes"]["status"] == {"old": "draft", "new": "active"}
    assert deleted.event_type == "general_manager.manager.deleted"
    assert deleted.payload["manager"] == "Project"
    assert deleted.payload["identification"] == {"id": key}
    assert deleted.payload["values"]["status"] == "active"
    assert deleted.metadata["model"] == "testapp.Project"
    assert {event.source for event in events} == {SOURCE}
    assert [event.metadata["action"] for event in events] == [
        "create",
        "create",
        "update",
        "delete",
    ]


@override_settings(GENERAL_MANAGER=ON)
def test_who_and_why_are_in_the_metadata(events):
    Person.create(name="Ada", creator_id=7, history_comment="hired")
    assert events[0].metadata == {
        "action": "create",
        "model": "testapp.Person",
        "creator_id": 7,
        "history_comment": "hired",
    }


@override_settings(GENERAL_MANAGER=ON)
def test_tracked_models_are_reported_too(events):
    invoice = Invoice.objects.create(number="1")
    invoice.status = "paid"
    invoice.save()
    assert [event.payload["manager"] for event in events] == ["Invoice", "Invoice"]
    assert events[1].payload["changes"] == {"status": {"old": "open", "new": "paid"}}


@override_settings(GENERAL_MANAGER=ON)
def test_handlers_run_after_the_commit(events):
    with transaction.atomic():
        Person.create(name="Ada")
        assert events == []
    assert len(events) == 1


@override_settings(GENERAL_MANAGER=ON)
def test_after_a_rollback_handlers_do_not_run(events):
    with pytest.raises(RuntimeError), transaction.atomic():
        Person.create(name="Ada")
        raise RuntimeError
    assert events == []


@override_settings(GENERAL_MANAGER=ON)
def test_the_commit_that_counts_is_the_one_of_the_changes_own_database(events):
    with transaction.atomic(using="default"):
        ArchivedProject.create(name="Gemini")
        assert [event.payload["manager"] for event in events] == ["ArchivedProject"]
    with pytest.raises(RuntimeError), transaction.atomic(using="archive"):
        ArchivedProject.create(name="Mercury")
        raise RuntimeError
    assert len(events) == 1


@override_settings(GENERAL_MANAGER=ON)
def test_what_a_handler_raises_reaches_nobody(event_registry):
    def fail(event):
        raise ValueError("boom")

    event_registry.register("manager_created", handler=fail)
    assert Person.create(name="Ada").name == "Ada"


def test_with_the_bridge_off_nothing_is_published(events):
    Person.create(name="Ada")
    assert events == []


def test_the_bridge_can_be_turned_on_and_off_by_hand(events):
    connect_workflow_signal_bridge()
    connect_workflow_signal_bridge()
    Person.create(name="Ada")
    assert len(events) == 1
    disconnect_workflow_signal_bridge()
    with override_settings(GENERAL_MANAGER=ON):
        Person.create(name="Grace")
    assert len(events) == 1


@override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "locall"})
def test_a_wrong_setting_stops_the_change_instead_of_losing_its_event(events):
    with pytest.raises(ImproperlyConfigured, match="WORKFLOW_MODE"):
        Person.create(name="Ada")
    assert not Person.all().exists()


@override_settings(GENERAL_MANAGER=ON)
def test_the_event_has_the_values_of_the_moment_of_the_change(events):
    with transaction.atomic():
        desk = InvoiceDesk.create(number="1")
        desk.update(status="sent")
        desk.update(status="paid")
    changes = [event.payload.get("changes", {}).get("status") for event in events]
    assert changes == [None, {"old": "open", "new": "sent"}, {"old": "sent", "new": "paid"}]


class Unspeakable:
    def __str__(self):
        raise RuntimeError


def test_a_value_that_is_not_json_becomes_text_and_a_warning(caplog):
    change = DataChange(
        "update",
        "Project",
        {"id": 1},
        "default",
        {
            "when": FieldChange(None, date(2026, 1, 1)),
            "logo": FieldChange(b"old", models.Q(name="\x00")),
            "odd": FieldChange(Unspeakable(), float("nan")),
        },
    )
    changes = event_of(change).payload["changes"]
    assert changes["when"] == {"old": None, "new": "2026-01-01"}
    assert changes["logo"]["old"] == "b'old'"
    assert "\x00" not in changes["logo"]["new"]
    assert changes["odd"] == {"old": "<Unspeakable>", "new": "nan"}
    assert "payload.changes.logo" in caplog.text


def explode():
    raise RuntimeError("no request")


def test_a_lazy_value_that_fails_does_not_fail_the_change():
    change = DataChange(
        "create",
        "P",
        {"id": 1},
        "default",
        history_comment=SimpleLazyObject(explode),  # type: ignore[arg-type]
    )
    assert event_of(change).metadata["history_comment"] == "<SimpleLazyObject>"


def test_connecting_by_hand_before_start_up_is_not_undone_by_it(events):
    connect_workflow_signal_bridge()
    listen()
    Person.create(name="Ada")
    assert len(events) == 1
    disconnect_workflow_signal_bridge()
    listen()
    Person.create(name="Grace")
    assert len(events) == 1


def test_a11_the_bridge_may_be_given_a_registry(event_registry):
    own, heard_by_own = InMemoryEventRegistry(), []
    own.register("manager_created", handler=lambda event: heard_by_own.append(event.event_name))
    in_force = []
    event_registry.register("manager_created", handler=in_force.append)
    connect_workflow_signal_bridge(registry=own)
    Person.create(name="Ada")
    assert (heard_by_own, in_force) == (["manager_created"], [])
    connect_workflow_signal_bridge()
    Person.create(name="Bob")
    assert len(in_force) == 1
    with pytest.raises(TypeError, match="registry must be an EventRegistry or None"):
        connect_workflow_signal_bridge(registry="shop.registry")  # type: ignore[arg-type]


@pytest.fixture
def heard_first():
    """Receivers that were there before the bridge, as those of an app that is loaded earlier."""
    receivers = []

    def hear_first(receiver):
        receivers.append(receiver)
        post_data_change.disconnect(dispatch_uid=_UID)
        post_data_change.connect(receiver)
        listen()

    yield hear_first
    for one in receivers:
        post_data_change.disconnect(one)


@override_settings(GENERAL_MANAGER=ON)
@pytest.mark.parametrize("act", ["save", "delete"])
def test_what_an_earlier_receiver_does_to_the_row_comes_after_what_it_heard_of(
    events, heard_first, act
):
    def receive(instance, action, **_):
        if action == "create":
            instance.status = "again"
            getattr(instance, act)()

    heard_first(receive)
    Invoice.objects.create(number="1")
    assert [one.event_name for one in events] == [
        "manager_created",
        "manager_updated" if act == "save" else "manager_deleted",
    ]
