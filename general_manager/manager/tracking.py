"""Plain models, saved as usual, whose changes are told like managers' changes."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import router
from django.db.models import Model
from django.db.models.signals import class_prepared, post_delete, pre_delete

from general_manager.atomic import honest_atomic
from general_manager.manager.change import (
    Action,
    DataChange,
    FieldChange,
    compare,
    identify,
    read_values,
)
from general_manager.manager.rows import is_told_elsewhere, told_by_manager
from general_manager.manager.signals import post_data_change, pre_data_change


def _descendants(model: type[Model]) -> Iterator[type[Model]]:
    for child in model.__subclasses__():
        yield child
        yield from _descendants(child)


def track_changes(model: type[Model], *, fields: Iterable[str] | None = None) -> type[Model]:
    """Tell of every `save` and `delete` of *model*'s instances; may be used as a decorator.

    Only *fields* are compared and told, or all of them. A save runs in a transaction in which the
    old values are read; the row is locked meanwhile where the database can. Told are ``save``,
    ``create``, ``get_or_create``, ``update_or_create``, the admin, forms, ``delete``, and what a
    queryset or a cascade deletes.

    **Not told**, because Django itself tells nobody: ``QuerySet.update``, ``bulk_create``,
    ``bulk_update``, raw SQL, fixtures, and changes of many-to-many fields.

    Tracking a model again replaces its *fields*. Raises `TypeError` for what is no model, and
    `FieldDoesNotExist` for a field that it lacks.
    """
    is_model = isinstance(model, type) and issubclass(model, Model) and model is not Model
    if not is_model or model._meta.abstract:
        raise TypeError(f"track_changes() takes a model that has a table, not {model!r}")
    if isinstance(fields, str):
        raise TypeError(f"fields must be several names, not the text {fields!r}")
    names = None if fields is None else frozenset(fields)
    for name in names or ():
        if name not in {one.name for one in model._meta.concrete_fields}:
            raise FieldDoesNotExist(
                f"{model.__name__} has no field {name!r} with a column to track"
            )
    tracker = vars(model).get("change_tracker")
    if tracker is None:
        tracker = Tracker(model)
        model.change_tracker = tracker  # type: ignore[attr-defined]  # found again by the next call
        tracker.install()
    tracker.names = names
    return model


class Tracker:
    """Stands around one model's `save_base` and listens to its deletions."""

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.names: frozenset[str] | None = None

    def install(self) -> None:
        # Signals would not do for saving: Django sends post_save after its own transaction.
        # The deletions' signals are sent inside theirs, for cascades and querysets too.
        self.model.save_base = self._around(self.model.save_base)  # type: ignore[method-assign]
        self._listen(self.model)
        for known in _descendants(self.model):
            self._listen_to_proxy(known)
        class_prepared.connect(self._listen_to_proxy, weak=False)

    def _listen(self, model: type[Model]) -> None:
        pre_delete.connect(self._before_delete, sender=model, weak=False)
        post_delete.connect(self._after_delete, sender=model, weak=False)

    def _listen_to_proxy(self, sender: type[Model], **_: Any) -> None:
        """Django names the proxy as the sender when an instance of a proxy is deleted."""
        if sender._meta.proxy and issubclass(sender, self.model):
            self._listen(sender)

    def _around(self, save_base: Callable[..., None]) -> Callable[..., None]:
        tracker = self

        @wraps(save_base)
        def tracked_save_base(  # noqa: PLR0917 - Django's own signature
            instance: Model,
            raw: bool = False,  # noqa: FBT001, FBT002 - Django's own signature
            force_insert: Any = False,  # noqa: FBT002 - the same
            force_update: bool = False,  # noqa: FBT001, FBT002 - the same
            using: str | None = None,
            update_fields: Iterable[str] | None = None,
        ) -> None:
            using = using or router.db_for_write(type(instance), instance=instance)

            def save() -> None:
                save_base(
                    instance,
                    raw=raw,
                    force_insert=force_insert,
                    force_update=force_update,
                    using=using,
                    update_fields=update_fields,
                )

            if raw or is_told_elsewhere(instance):
                save()
            else:
                with honest_atomic(using), told_by_manager(instance):
                    # A receiver of Django's signals may save the instance again: that is part of
                    # this change, and told with it.
                    tracker._save(instance, save, using)

        return tracked_save_base

    def _save(self, instance: Model, save: Callable[[], None], using: str) -> None:
        before = self._stored_values(instance, using)
        action: Action = "create" if before is None else "update"
        values = read_values(instance, self.names)
        self._announce(instance, action, values, using)
        save()
        after = self._stored_values(instance, using) or {}
        if before is None:
            changes = {name: FieldChange(None, value) for name, value in after.items()}
        else:
            changes = compare(before, after)
        if changes or before is None:
            self._tell(instance, action, changes, using)

    def _before_delete(self, instance: Model, using: str, origin: Any = None, **_: Any) -> None:
        if is_told_elsewhere(instance):
            return
        # What a queryset or a cascade deletes was read a moment ago; a caller's instance was not.
        if origin is instance or instance.get_deferred_fields():
            old = self._stored_values(instance, using)
        else:
            old = read_values(instance, self.names)
        if old is not None:
            vars(instance)["values_before_delete"] = old
            self._announce(instance, "delete", {}, using)

    def _after_delete(self, instance: Model, using: str, **_: Any) -> None:
        old = vars(instance).pop("values_before_delete", None)
        if old is not None:
            changes = {name: FieldChange(value, None) for name, value in old.items()}
            self._tell(instance, "delete", changes, using)

    def _stored_values(self, instance: Model, using: str) -> dict[str, Any] | None:
        """What the database has for *instance*, locked; `None` if it has nothing."""
        key = identify(instance, self.model)
        if None in key.values():
            return None
        rows = self.model._base_manager.using(using).select_for_update()
        stored = rows.filter(**key).first()
        return None if stored is None else read_values(stored, self.names)

    def _announce(
        self, instance: Model, action: Action, values: dict[str, Any], using: str
    ) -> None:
        pre_data_change.send(
            self.model,
            instance=None if action == "create" else instance,
            action=action,
            values=values,
            using=using,
            creator_id=None,
            history_comment=None,
        )

    def _tell(
        self, instance: Model, action: Action, changes: dict[str, FieldChange], using: str
    ) -> None:
        post_data_change.send(
            self.model,
            instance=instance,
            action=action,
            change=DataChange(
                action,
                self.model.__name__,
                identify(instance, self.model),
                using=using,
                changes=changes,
            ),
            using=using,
            creator_id=None,
            history_comment=None,
        )
