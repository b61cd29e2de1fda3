"""What the events of changed rows say: values, models, sizes, secrets."""

import base64
import logging
from typing import Any, assert_type

import pytest
from django.contrib.auth.models import Group, User
from django.core.checks import Warning as CheckWarning
from django.test import override_settings
from django.test.utils import isolate_apps

from general_manager import GeneralManager, track_changes
from general_manager.checks.tracking import check_excluded, check_names
from general_manager.interface import ExistingModelInterface
from general_manager.manager import DataChange, FieldChange
from general_manager.manager.trackers import Tracker, add_tracker, trackers
from general_manager.workflow.signal_bridge import event_of
from tests.rowapp.fields import Translated
from tests.rowapp.kinds import KINDS, model, text
from tests.rowapp.reported import reported, restore

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


def events_of(name: str, **values: Any) -> tuple[Any, Any, Any]:
    """The payloads of a creation, an update and a deletion of a row of that kind."""
    kind = KINDS[name]
    row = kind.tracked(**kind.new())
    with reported() as changes:
        row.save()
        for field, value in (values or kind.change()).items():
            setattr(row, field, value)
        row.save()
        row.delete()
    created, updated, deleted = (event_of(one).payload for one in changes)
    return created["values"], updated["changes"], deleted["values"]


def test_a_value_that_json_does_not_take_is_what_djangos_serializers_write():
    created, updated, deleted = events_of("Binary")
    assert base64.b64decode(created["data"]) == b"\x00\xff"
    assert {side: base64.b64decode(updated["data"][side]) for side in updated["data"]} == {
        "old": b"\x00\xff",
        "new": b"\x01",
    }
    assert base64.b64decode(deleted["data"]) == b"\x01"


def test_a_value_of_a_class_of_its_own_is_what_its_field_stores():
    created, updated, _ = events_of("Translated")
    assert created["title"] == '{"de": "Rechnung", "en": "Bill"}'
    assert updated["title"] == {
        "old": '{"de": "Rechnung", "en": "Bill"}',
        "new": '{"de": "Beleg", "en": "Bill"}',
    }
    assert events_of("Vector")[0]["data"] == "[1.0, 2.0]"


def test_a_long_value_of_a_class_of_its_own_is_not_cut():
    long = Translated({"en": "long " * 10_000, "de": "lang"})
    assert len(events_of("Translated", title=long)[1]["title"]["new"]) > 50_000


def test_a_field_whose_values_are_not_json_is_named_in_the_log_once(caplog):
    field = KINDS["Binary"].tracked._meta.get_field("data")
    change = DataChange(
        "create", "Unheard", {"id": 1}, "default", {"data": FieldChange(None, b"a")},
        model=field.model,
    )  # fmt: skip
    for _ in range(3):
        event_of(change)
    assert caplog.text.count("payload.values.data cannot be encoded as JSON") == 1


def test_a_value_that_makes_the_event_too_large_is_left_out_with_its_size_and_the_log_says_so(
    caplog,
):
    kind = KINDS["Json"].tracked
    with reported() as changes:
        row = kind.objects.create(data={"text": "x" * 5_000})
        row.data = {"text": "y" * 300}
        row.save()
    with override_settings(GENERAL_MANAGER={"WORKFLOW_EVENT_MAX_BYTES": 1_000}):
        created, updated = (event_of(one).payload for one in changes)
    assert created["values"]["data"] == {"omitted_bytes": 5_012}
    assert updated["changes"]["data"]["old"] == {"omitted_bytes": 5_012}
    assert updated["changes"]["data"]["new"] == {"text": "y" * 300}
    record = next(one for one in caplog.records if one.levelno == logging.WARNING)
    assert record.getMessage() == (
        "TrackedJson.data has 5012 bytes; its event omits the value, because "
        "WORKFLOW_EVENT_MAX_BYTES is 1000"
    )
    with override_settings(GENERAL_MANAGER={}):
        assert event_of(changes[0]).payload["values"]["data"]["text"] == "x" * 5_000


def test_a_deletion_says_what_was_there():
    assert events_of("AutoKey")[2] == {"name": "b"}


@isolate_apps("tests.testapp")
def test_models_of_one_name_in_two_apps_are_distinguished():
    lines = [model("Line", text(), app_label=label) for label in ("basket", "order")]
    known = dict(trackers)
    try:
        for one in lines:
            track_changes(one)
        changes = [DataChange("create", "Line", {"id": 1}, "default", model=one) for one in lines]
        assert [event_of(one).metadata["model"] for one in changes] == [
            "basket.Line",
            "order.Line",
        ]
        messages = check_names()
        assert [type(one) for one in messages] == [CheckWarning]
        assert messages[0].id == "general_manager.W024"
        assert "basket.Line, order.Line" in messages[0].msg
        track_changes(lines[1], name="OrderLine")
        assert trackers[lines[1]].name == "OrderLine"
        assert check_names() == []
    finally:
        restore(known)


def test_a_managers_exclusion_that_names_no_field_is_reported_by_a_check():
    def desk(name: str, model: str, *exclude: str) -> None:
        interface = type("Interface", (ExistingModelInterface,), {"model": model})
        type(name, (GeneralManager,), {"Interface": interface}, exclude=exclude)

    known = list(GeneralManager.known_managers)
    try:
        desk("SeedDesk", "rowapp.PlainEncrypted", "data", "dta", "sede")
        desk("StaffDesk", "auth.User", "email", "groups")  # a column, and many-to-many
        messages = check_excluded()
    finally:
        GeneralManager.known_managers[:] = known
    assert [(type(one), one.id) for one in messages] == [
        (CheckWarning, "general_manager.W025"),
    ] * 2
    for message, misspelt in zip(messages, ("dta", "sede"), strict=True):
        assert f"SeedDesk excludes {misspelt!r}" in message.msg
        assert "rowapp.PlainEncrypted has no such field" in message.msg
    assert check_excluded() == []


def test_a_name_of_its_own_is_what_events_call_the_model():
    kind = KINDS["Money"].tracked
    track_changes(kind, name="Account")
    try:
        with reported() as changes:
            kind.objects.create(sum=1)
    finally:
        track_changes(kind)
    assert changes[0].manager == "Account"
    assert event_of(changes[0]).metadata["model"] == "rowapp.TrackedMoney"


def test_excluded_fields_and_passwords_are_neither_read_nor_reported():
    known = dict(trackers)
    kind = KINDS["Encrypted"].tracked
    try:
        track_changes(kind, exclude=("data",))
        with reported() as changes:
            row = kind.objects.create(data="seed")
            row.data = "other"
            row.save()
            row.delete()
        assert [set(one.changes) for one in changes] == [{"name"}, {"name"}]
        add_tracker(Tracker(User, None, frozenset(), "User"))
        assert "password" not in {one.name for one in trackers[User].fields}
        add_tracker(Tracker(User, frozenset({"password"}), frozenset(), "User"))
        assert {one.name for one in trackers[User].fields} == {"password"}
    finally:
        restore(known)


def test_a_field_that_a_parent_excludes_is_not_reported_by_its_child():
    parent, child = KINDS["Parent"].tracked, KINDS["ChildOfTracked"].tracked
    track_changes(parent, exclude=("name",))
    try:
        with reported() as changes:
            child.objects.create(name="secret")
    finally:
        track_changes(parent)
    assert [dict(one.changes) for one in changes] == [{}, {"load": (None, 1)}]


def test_the_decorator_takes_options_and_keeps_the_class():
    with isolate_apps("tests.testapp"):
        known = dict(trackers)
        try:

            @track_changes(fields=("name",), name="Shown")
            class Decorated(model("Abstract", text(), abstract=True)):  # type: ignore[misc]
                class Meta:
                    app_label = "testapp"

            assert_type(track_changes(Group), type[Group])
            assert Decorated.__name__ == "Decorated"
            assert trackers[Decorated].name == "Shown"
        finally:
            restore(known)


def test_the_table_of_a_many_to_many_field_is_refused_in_words():
    with pytest.raises(TypeError, match=r"auth\.Group_permissions is the automatic table"):
        track_changes(Group.permissions.through)
    with pytest.raises(TypeError, match="either fields or exclude"):
        track_changes(Group, fields=("name",), exclude=("name",))
    with pytest.raises(TypeError, match="name must be text on one line"):
        track_changes(Group, name="")
