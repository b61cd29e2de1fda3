"""Which classes are tracked, and what each of them reports of a row.

One rule for inheritance: each tracked class is reported under one name, once for each change of a
column that is its own. Its own are the columns of its table, and those of its parents that no
tracked parent reports. A proxy counts as its concrete model.
"""

from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

from django.db.models import Field, Model

from general_manager.manager.change import value_fields
from general_manager.manager.stored import Columns

AnyField: TypeAlias = "Field[Any, Any]"
trackers: dict[type[Model], "Tracker"] = {}
"""By concrete model: nothing of ours is an attribute of the user's class."""


class Tracker:
    """What is reported of one concrete model."""

    def __init__(
        self, model: type[Model], names: frozenset[str] | None, exclude: frozenset[str], name: str
    ) -> None:
        self.model = model
        self.names = names
        self.exclude = exclude
        self.name = name

    @cached_property
    def fields(self) -> tuple[AnyField, ...]:
        """The fields that events have."""
        if self.names is not None:
            return tuple(one for one in value_fields(self.model) if one.name in self.names)
        hidden = self.exclude.union(*(one.exclude for one in self._above), secrets_of(self.model))
        return tuple(one for one in value_fields(self.model) if one.name not in hidden)

    @cached_property
    def own(self) -> frozenset[AnyField]:
        """Of these, the fields whose change makes an event of this class."""
        if self.names is not None:
            return frozenset(self.fields)
        return frozenset(self.fields).difference(*(one.fields for one in self._above))

    @cached_property
    def columns(self) -> Columns:
        """To read all that is reported of one row."""
        return Columns(self.model, [*self.model._meta.pk_fields, *self.fields])

    def forget(self) -> None:
        """Another class is tracked now, which may be a parent of this one."""
        for name in ("fields", "own", "columns"):
            vars(self).pop(name, None)

    @property
    def _above(self) -> list["Tracker"]:
        return [one for one in trackers_of(self.model) if one is not self]


class Part(NamedTuple):
    """What one tracker reports of a row that is read with those of its relatives."""

    tracker: Tracker
    key: tuple[tuple[str, AnyField], ...]
    fields: tuple[AnyField, ...]
    own: frozenset[AnyField]


class Plan(NamedTuple):
    """What a save reads: *columns*, in one statement, for all *parts*; parents come first."""

    columns: Columns
    parts: tuple[Part, ...]


NOTHING = Plan(Columns(Model, ()), ())
"""The plan of a save by which nothing that is reported can change."""


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
    """What a save of the concrete *model* reads; `NOTHING` if nothing reported can change."""
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
        base = read.pop() if len(read) == 1 else model
    parts = tuple(_part(base, *one) for one in wanted)
    if not parts:
        return NOTHING
    everything = dict.fromkeys(
        field for part in parts for field in (*(field for _, field in part.key), *part.fields)
    )
    return Plan(Columns(base, list(everything)), parts)


def plan_for_bulk(model: type[Model]) -> Plan:
    """What a bulk change of *model* reads; a model that is not tracked is reported whole."""
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
    if not issubclass(base, tracker.model):  # a parent's table is read alone, by its own key
        keys = list(base._meta.pk_fields)
    return Part(tracker, tuple(zip(names, keys, strict=True)), tuple(fields), own)


def secrets_of(model: type[Model]) -> frozenset[str]:
    """Fields that are reported only if they are asked for by name: a user's password."""
    # Not at import time: the module defines a model, which takes apps that are being loaded.
    from django.contrib.auth.base_user import AbstractBaseUser  # noqa: PLC0415

    return frozenset({"password"}) if issubclass(model, AbstractBaseUser) else frozenset()
