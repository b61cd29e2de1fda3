"""The two signals around a change of a tracked model's row."""

from collections.abc import Callable, Mapping
from threading import local
from typing import Any

from django.db.models import Model

from general_manager.manager.change import Action, DataChange, FieldChange, created
from general_manager.manager.same_row import changed_values, identity, written_values
from general_manager.manager.signals import post_data_change, pre_data_change
from general_manager.manager.stored import StoredRow
from general_manager.manager.trackers import Part, Tracker, secrets_of


class _Here(local):
    def __init__(self) -> None:
        self.reported = 0


_here = _Here()


def reported_so_far() -> int:
    """The number of changes to tracked rows that this thread has reported."""
    return _here.reported


def is_announced(model: type[Model]) -> bool:
    """Whether a receiver is connected for changes of *model*'s rows."""
    return pre_data_change.has_listeners(model)


def announce(
    model: type[Model], instance: Model | None, action: Action, values: dict[str, Any], using: str
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
    action: Action,
    identification: Mapping[str, Any],
    changes: Mapping[str, FieldChange],
    **about: Any,
) -> None:
    """Send the change of a tracked row; *about* contains ``instance`` and ``using``."""
    _here.reported += 1
    change = DataChange(
        action,
        tracker.name,
        identification,
        using=about["using"],
        changes=changes,
        model=tracker.model,
    )
    post_data_change.send(
        tracker.model,
        action=action,
        change=change,
        creator_id=None,
        history_comment=None,
        **about,
    )


def report_manager(
    manager: Any, action: Action, changes: Mapping[str, FieldChange], *, using: str, **about: Any
) -> None:
    """Report the change of a `GeneralManager` object, unless only excluded fields changed."""
    kind, model = type(manager), manager.get_model()
    hidden = kind.excluded_fields | secrets_of(model)
    shown = {name: one for name, one in changes.items() if name not in hidden}
    if action == "update" and not shown:
        return
    change = DataChange(
        action,
        kind.__name__,
        manager.identification,
        using=using,
        changes=shown,
        model=model,
        **about,
    )
    post_data_change.send(
        kind, instance=manager, action=action, change=change, using=using, **about
    )


def report_row(
    part: Part,
    instance: Model | None,
    before: StoredRow | None,
    after: StoredRow | None,
    using: str,
    **more: Any,
) -> None:
    """Report the change of a row if its own columns changed.

    Without *before* the row is new. Without *after* the writer cannot read the row, so the
    instance's values count.
    """
    action: Action = "create" if before is None else "update"
    if before is not None:
        changes = changed_values(part.fields, before, after, instance)
        if not any(one.name in changes for one in part.own):
            return
    else:
        changes = created(written_values(part.fields, after, instance))
    key = identity(part.key, after or before, instance)
    report(part.tracker, action, key, changes, instance=instance, using=using, **more)


class Batch:
    """The changes of one bulk verb: receivers may collect items and handle them together."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._kept: dict[Callable[[list[Any], str], None], list[Any]] = {}

    def keep(self, finish: Callable[[list[Any], str], None], item: Any) -> None:
        """Add an item; *finish* is called once with all items in order and the database alias."""
        self._kept.setdefault(finish, []).append(item)

    def finish(self) -> None:
        """Call the collected functions, in the transaction of the changes."""
        for finish, items in self._kept.items():
            finish(items, self._using)
