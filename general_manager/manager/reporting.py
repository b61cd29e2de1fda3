"""The two signals around a change of a tracked model."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Model

from general_manager.manager.change import Action, DataChange, FieldChange
from general_manager.manager.signals import post_data_change, pre_data_change
from general_manager.manager.trackers import Tracker


def is_announced() -> bool:
    """Whether anybody listens before a change."""
    return pre_data_change.has_listeners()


def announce(
    model: type[Model], instance: Model, action: Action, values: dict[str, Any], using: str
) -> None:
    pre_data_change.send(
        model,
        instance=None if action == "create" else instance,
        action=action,
        values=values,
        using=using,
        creator_id=None,
        history_comment=None,
    )


def report(
    tracker: Tracker,
    instance: Model,
    action: Action,
    identification: Mapping[str, Any],
    changes: Mapping[str, FieldChange],
    using: str,
    **more: Any,
) -> None:
    change = DataChange(
        action, tracker.name, identification, using=using, changes=changes, model=tracker.model
    )
    post_data_change.send(
        tracker.model,
        instance=instance,
        action=action,
        change=change,
        using=using,
        creator_id=None,
        history_comment=None,
        **more,
    )
