"""Events as plain values."""

from datetime import UTC, datetime
from types import MappingProxyType
from uuid import UUID

import pytest

from general_manager.workflow.events import (
    WorkflowEvent,
    manager_created_event,
    manager_deleted_event,
    manager_updated_event,
)


def test_an_update_keeps_old_and_new_of_each_field():
    event = manager_updated_event(
        manager="Project",
        identification={"id": 42},
        changes={"status": "active", "budget": 5},
        old_values={"status": "draft"},
        event_name="project_status_changed",
    )
    assert event.event_type == "general_manager.manager.updated"
    assert event.event_name == "project_status_changed"
    assert event.payload == {
        "manager": "Project",
        "identification": {"id": 42},
        "changes": {
            "status": {"old": "draft", "new": "active"},
            "budget": {"old": None, "new": 5},
        },
    }


def test_a_creation_tells_its_values():
    event = manager_created_event(manager="Project", values={"name": "Apollo"})
    assert event.event_type == "general_manager.manager.created"
    assert event.event_name == "manager_created"
    assert event.payload == {"manager": "Project", "values": {"name": "Apollo"}}


def test_a_deletion_tells_who_is_gone():
    event = manager_deleted_event(manager="Project", identification={"id": 42})
    assert event.event_type == "general_manager.manager.deleted"
    assert event.event_name == "manager_deleted"
    assert event.payload == {"manager": "Project", "identification": {"id": 42}}


def test_an_event_has_an_id_of_its_own_and_the_time_unless_given():
    first = manager_deleted_event(manager="Project")
    second = manager_deleted_event(manager="Project")
    assert UUID(first.event_id) != UUID(second.event_id)
    assert first.occurred_at is not None
    assert abs((datetime.now(UTC) - first.occurred_at).total_seconds()) < 60
    when = datetime(2026, 1, 1, tzinfo=UTC)
    told = manager_deleted_event(
        manager="Project", event_id="mine", occurred_at=when, source="here", metadata={"a": 1}
    )
    assert (told.event_id, told.occurred_at, told.source) == ("mine", when, "here")
    assert told.metadata == {"a": 1}


def test_what_the_caller_changes_later_does_not_reach_the_event():
    identification, changes, metadata = {"id": 1}, {"status": "active"}, {"a": 1}
    event = manager_updated_event(
        manager="Project", identification=identification, changes=changes, metadata=metadata
    )
    for mapping in (identification, changes, metadata):
        mapping.clear()
    assert event.payload["identification"] == {"id": 1}
    assert event.payload["changes"] == {"status": {"old": None, "new": "active"}}
    assert event.metadata == {"a": 1}


def test_any_mapping_will_do():
    event = manager_created_event(manager="P", values=MappingProxyType({"a": 1}))
    assert event.payload["values"] == {"a": 1}


def test_an_event_cannot_be_changed():
    event = manager_deleted_event(manager="Project")
    with pytest.raises(AttributeError):
        event.event_id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"event_id": 7}, "event_id must be text"),
        ({"event_id": " "}, "event_id must not be empty"),
        ({"event_id": "x" * 256}, "event_id has 256 characters"),
        ({"event_id": "a\x00b"}, "event_id must not contain the control character U\\+0000"),
        ({"event_id": "a\nb"}, "event_id must not contain the control character U\\+000A"),
        ({"event_name": "a\x1b[2Jb"}, "event_name must not contain the control character U\\+001B"),
        ({"source": "a\u202eb"}, "source must not contain the control character U\\+202E"),
        ({"event_type": "a.\u2028b"}, "event_type must not contain the control character U\\+2028"),
        ({"event_type": None}, "event_type must be text"),
        ({"event_name": ""}, "event_name must not be empty"),
        ({"source": 3}, "source must be text"),
        ({"payload": [1]}, "payload must be a mapping"),
        ({"metadata": "m"}, "metadata must be a mapping"),
        ({"occurred_at": "today"}, "occurred_at must be a datetime"),
        ({"occurred_at": datetime(2026, 1, 1)}, "must have a time zone"),  # noqa: DTZ001 - what is refused
    ],
)
def test_a_wrong_argument_is_refused_by_name(changed, message):
    arguments = {"event_id": "1", "event_type": "a.b", "payload": {}, **changed}
    with pytest.raises((TypeError, ValueError), match=message):
        WorkflowEvent(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: manager_deleted_event(manager=object), "manager must be text"),  # type: ignore[arg-type]
        (lambda: manager_deleted_event(manager="P", identification=3), "identification must be"),  # type: ignore[arg-type]
        (lambda: manager_created_event(manager="P", values=[]), "values must be a mapping"),  # type: ignore[arg-type]
        (lambda: manager_updated_event(manager="P", changes="x"), "changes must be a mapping"),  # type: ignore[arg-type]
        (
            lambda: manager_updated_event(manager="P", changes={}, old_values=1),  # type: ignore[arg-type]
            "old_values must be a mapping",
        ),
        (lambda: manager_deleted_event(manager="P", metadata=1), "metadata must be a mapping"),  # type: ignore[arg-type]
    ],
)
def test_a_constructor_refuses_what_is_no_mapping_and_no_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()
