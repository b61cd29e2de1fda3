"""The tracked classes, and the columns that each of them reports.

The rule for inheritance: each tracked class has one name and is reported once for each change of
its own columns. Its own columns are those of its table, and those of its parents that no tracked
parent reports. A proxy counts as its concrete model.
"""

from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

from django.db.models import Field, Model

from general_manager.manager.change import value_fields
from general_manager.manager.stored import Columns

AnyField: TypeAlias = "Field[Any, Any]"
trackers: dict[type[Model], "Tracker"] = {}
"""By concrete model, so that user classes get no attributes of ours."""


class Tracker:
    """What one concrete model reports."""

    def __init__(
        self, model: type[Model], names: frozenset[str] | None, exclude: frozenset[str], name: str
    ) -> None:
        self.model = model
        self.names = names
        self.exclude = exclude
        self.name = name

    @cached_property
    def fields(self) -> tuple[AnyField, ...]:
        """The fields in its events."""
        if self.names is not None:
            return tuple(one for one in value_fields(self.model) if one.name in self.names)
        hidden = self.exclude.union(*(one.exclude for one in self._above), secrets_of(self.model))
        return tuple(one for one in value_fields(self.model) if one.name not in hidden)

    @cached_property
    def own(self) -> frozenset[AnyField]:
        """Those fields whose change emits an event of this class."""
        if self.names is not None:
            return frozenset(self.fields)
        return frozenset(self.fields).difference(*(one.fields for one in self._above))

    @cached_property
    def columns(self) -> Columns:
        """Reads all reported columns of a row."""
        return Columns(self.model, [*self.model._meta.pk_fields, *self.fields])

    def forget(self) -> None:
        """Forget cached values: another class, perhaps a parent, is tracked now."""
        for name in ("fields", "own", "columns"):
            vars(self).pop(name, None)

    @property
    def _above(self) -> list["Tracker"]:
        return [one for one in trackers_of(self.model) if one is not self]


class Part(NamedTuple):
    """The part of one tracker in a row that is read together with its relatives' columns."""

    tracker: Tracker
    key: tuple[tuple[str, AnyField], ...]
    fields: tuple[AnyField, ...]
    own: frozenset[AnyField]


class Plan(NamedTuple):
    """The reads of a save: *columns* in one statement for all *parts*, parents first."""

    columns: Columns
    parts: tuple[Part, ...]


NOTHING = Plan(Columns(Model, ()), ())
"""The plan of a save that cannot change any reported column."""


def add_tracker(tracker: Tracker) -> None:
    trackers[tracker.model] = tracker
    plan_for.cache_clear()
    trackers_of.cache_clear()
    for known in trackers.values():
        known.forget()


@cache
def trackers_of(model: type[Model]) -> tuple[Tracker, ...]:
    """Trackers of the concrete *model* and of its parents, parents first."""
    return tuple(trackers[one] for one in reversed(model.__mro__) if one in trackers)


@lru_cache(maxsize=4096)
def plan_for(model: type[Model], update_fields: frozenset[str] | None) -> Plan:
    """The plan of a save of the concrete *model*; `NOTHING` if no reported column can change."""
    found = trackers_of(model)
    if update_fields is None:
        wanted = [(one, one.fields, one.own) for one in found]
        base = found[-1].model if found else model
        if not all(issubclass(base, one.model) for one in found):
            base = model
    else:
        written = {
            one
            for one in model._meta.concrete_fields
            if one.name in update_fields or one.attname in update_fields
        }
        tables = {one.model for one in written}
        wanted = []
        for one in found:
            own = frozenset(field for field in one.own if field.model in tables)
            if any(field in written or getattr(field, "generated", False) for field in own):
                wanted.append((one, tuple(f for f in one.fields if f.model in tables), own))
        read = {field.model for _, fields, _ in wanted for field in fields}
        one_table = read.pop() if len(read) == 1 else model
        has_keys = all(_has_key_of(one.model, one_table) for one, _, _ in wanted)
        base = one_table if has_keys else model
    parts = tuple(_part(base, *one) for one in wanted)
    if not parts:
        return NOTHING
    everything = dict.fromkeys(
        field for part in parts for field in (*(field for _, field in part.key), *part.fields)
    )
    return Plan(Columns(base, list(everything)), parts)


def plan_for_bulk(model: type[Model]) -> Plan:
    """The plan of a bulk change of *model*; an untracked model reports all columns."""
    concrete = model._meta.concrete_model or model
    plan = plan_for(concrete, None)
    if plan.parts:
        return plan
    tracker = Tracker(concrete, None, frozenset(), concrete.__name__)
    return Plan(tracker.columns, (_part(concrete, tracker, tracker.fields, tracker.own),))


def _part(
    base: type[Model], tracker: Tracker, fields: Sequence[AnyField], own: frozenset[AnyField]
) -> Part:
    names = [one.attname for one in tracker.model._meta.pk_fields]
    keys = list(tracker.model._meta.pk_fields)
    if not issubclass(base, tracker.model):  # a parent's table is read separately, by its own key
        keys = list(base._meta.pk_fields)
    return Part(tracker, tuple(zip(names, keys, strict=True)), tuple(fields), own)


def _has_key_of(model: type[Model], other: type[Model]) -> bool:
    """Whether the key of *model* is that of *other*, one of its parents, or of its children."""
    if issubclass(other, model):
        return True
    key: Any = model._meta.pk
    while model is not other and getattr(key.remote_field, "parent_link", False):
        model = key.remote_field.model._meta.concrete_model
        key = model._meta.pk
    return model is other


def secrets_of(model: type[Model]) -> frozenset[str]:
    """Fields that are reported only if named explicitly: a user's password."""
    # Not at import time: the module defines a model, so the app registry must be loading.
    from django.contrib.auth.base_user import AbstractBaseUser  # noqa: PLC0415 - needs an app that may be absent

    return frozenset({"password"}) if issubclass(model, AbstractBaseUser) else frozenset()
