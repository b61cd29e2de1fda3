"""Rows of the project that refer to ours: retention does with them what their `on_delete` says.

Without such rows nothing here costs a statement.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import IntegrityError, models, router, transaction
from django.db.models import CASCADE, DO_NOTHING, PROTECT, RESTRICT, Exists, OuterRef, Q
from django.db.models.deletion import (
    Collector,
    ProtectedError,
    RestrictedError,
    get_candidate_relations_to_delete,
)

from general_manager.escaping import get_logger

logger = get_logger(__name__)

OURS: Final = "general_manager"

_named: set[str] = set()
"""What this process has said already."""


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that go together when one of them, the pruned one, is over."""

    root: type[models.Model]
    """With a row of this, Django deletes all of them."""
    way: str
    """From the root to the pruned row, as lookups are written."""
    tables: Mapping[type[models.Model], str]
    """Each table, with the way from it to the pruned row."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A project's relation to one of our tables."""

    model: type[models.Model]
    """Whose rows refer to ours."""
    field: Any
    way: str
    """From those rows to the pruned row; empty for a generic relation."""

    def __str__(self) -> str:
        action = getattr(self.on_delete, "__name__", type(self.on_delete).__name__)
        return f"{self.model._meta.label}.{self.field.name} (on_delete={action})"

    @property
    def on_delete(self) -> Any:
        return self.field.remote_field.on_delete if self.way else None

    def to(self, keys: Collection[int]) -> dict[str, Any]:
        """The lookup of the rows that refer to the pruned rows *keys*."""
        return {f"{self.way}__in": keys}

    def rows(self, using: str, **lookup: Any) -> "models.QuerySet[Any]":
        return self.model._base_manager.using(using).filter(**lookup)


def references(family: Family, using: str) -> list[Reference]:
    """Every relation of the project to a table of *family* whose rows are on database *using*."""
    found: list[Reference] = []
    for model, way in family.tables.items():
        relations: Any = get_candidate_relations_to_delete(model._meta)
        found += [
            Reference(one.related_model, one.field, f"{one.field.name}__{way}") for one in relations
        ]
        found += [
            Reference(generic.related_model, generic, "")
            for generic in model._meta.private_fields
            if hasattr(generic, "bulk_related_objects")
        ]
    return [
        one
        for one in found
        if one.model._meta.app_label != OURS and router.allow_migrate_model(using, one.model)
    ]


def blocking(found: Collection[Reference]) -> list[Reference]:
    """Those that keep our rows for as long as they refer to them.

    What a RESTRICT forbids may be allowed because its row goes too, by a CASCADE: that is tried.
    """
    cascading = {one.model for one in found if one.on_delete is CASCADE}
    return [
        one
        for one in found
        if one.on_delete is PROTECT or (one.on_delete is RESTRICT and one.model not in cascading)
    ]


def is_kept(blockers: Collection[Reference], using: str) -> Q:
    """Whether a row that could be pruned is referred to in a way that keeps it."""
    condition = Q(pk__in=[])
    for one in blockers:
        condition |= Q(Exists(one.rows(using, **{one.way: OuterRef("pk")})))
    return condition


def delete_referred(
    family: Family, keys: list[int], using: str, found: Collection[Reference]
) -> set[int]:
    """Delete what belongs to the pruned rows *keys* as Django deletes it; returns what must stay.

    In the caller's transaction. What refuses a batch is looked for by halves.
    """
    try:
        with transaction.atomic(using=using):
            _delete(family, keys, using, found)
    except (ProtectedError, RestrictedError, IntegrityError) as error:
        if len(keys) > 1:
            middle = len(keys) // 2
            halves = (keys[:middle], keys[middle:])
            return {key for half in halves for key in delete_referred(family, half, using, found)}
        objects = getattr(error, "protected_objects", getattr(error, "restricted_objects", ()))
        labels = {type(one)._meta.label for one in objects}
        # The database's own refusal names tables, in words that differ.
        labels |= {str(one) for one in _left_alone(found) if one.rows(using, **one.to(keys))}
        name_once(family, ", ".join(sorted(labels)) or str(error))
        return set(keys)
    return set()


def _delete(family: Family, keys: list[int], using: str, found: Collection[Reference]) -> None:
    root = family.root
    targets = [one.field.target_field for one in found if one.way]
    named = [target.name for target in targets if target.model is root]
    rows = root._base_manager.using(using).filter(**{f"{family.way}__in": keys})
    left_alone = [
        (one, list(one.rows(using, **one.to(keys)).values_list("pk", flat=True)))
        for one in _left_alone(found)
    ]
    collector = Collector(using=using, origin=rows)
    collector.collect(rows.only("pk", *named))
    collector.delete()
    for one, referring in left_alone:
        # Unless the database did something about them. Many check constraints at the commit only.
        still = one.rows(using, pk__in=referring, **{f"{one.field.name}__isnull": False})
        if referring and still.exists():
            raise IntegrityError(str(one))


def _left_alone(found: Collection[Reference]) -> list[Reference]:
    """What is the database's own business, where its constraints do something about it."""
    return [one for one in found if one.on_delete is DO_NOTHING and one.field.db_constraint]


def name_once(family: Family, who: str) -> None:
    """Say in the log, once in a process, what keeps our rows from being pruned."""
    what = family.root._meta.verbose_name_plural
    if f"{what} {who}" not in _named:
        _named.add(f"{what} {who}")
        logger.warning(
            "Retention keeps %s because of %s: delete the rows that refer to them, or change what "
            "on_delete says",
            what, who,
        )  # fmt: skip
