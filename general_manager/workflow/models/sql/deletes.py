"""Deletes for retention if rows of the project refer to ours, by the rules of their `on_delete`.

Without such relations, nothing here costs a statement.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, models, router, transaction
from django.db.models import CASCADE, DO_NOTHING, PROTECT, RESTRICT, Exists, OuterRef, Q
from django.db.models.deletion import (
    Collector,
    ProtectedError,
    RestrictedError,
    get_candidate_relations_to_delete,
)

from general_manager.escaping import get_logger
from general_manager.names import APP_LABEL

logger = get_logger(__name__)

_named: set[str] = set()
"""Warnings that this process has logged already."""


@dataclass(frozen=True, slots=True)
class Family:
    """The tables whose rows are deleted together with one pruned row."""

    root: type[models.Model]
    """Deleting a row of this model makes Django delete all of them."""
    way: str
    """The lookup from the root to the pruned row."""
    tables: Mapping[type[models.Model], str]
    """Each table, with the lookup from it to the pruned row."""
    beforehand: Callable[[Collection[int], str], None] | None = None
    """Deletes rows that belong to the pruned ones without a foreign key."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A project's relation to one of our tables."""

    model: type[models.Model]
    """The project's model, whose rows refer to ours."""
    field: Any
    way: str
    """The lookup from those rows to the pruned row; empty for a generic relation."""

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
        if one.model._meta.app_label != APP_LABEL and router.allow_migrate_model(using, one.model)
    ]


def blocking(found: Collection[Reference]) -> list[Reference]:
    """The relations that keep our rows from being deleted.

    Not RESTRICT on a model with a CASCADE: its row may be deleted too, so the delete is tried.
    """
    cascading = {one.model for one in found if one.on_delete is CASCADE}
    return [
        one
        for one in found
        if one.on_delete is PROTECT or (one.on_delete is RESTRICT and one.model not in cascading)
    ]


def is_kept(blockers: Collection[Reference], using: str) -> Q:
    """Whether one of *blockers* keeps a row from being pruned."""
    condition = Q(pk__in=[])
    for one in blockers:
        condition |= Q(Exists(one.rows(using, **{one.way: OuterRef("pk")})))
    return condition


def delete_referred(
    family: Family, keys: list[int], using: str, found: Collection[Reference]
) -> set[int]:
    """Delete the pruned rows *keys* and all that belongs to them; returns the keys that must stay.

    In the caller's transaction. If a batch is refused, it is split in halves to find the rows.
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
        # The error of a database names tables, in a text that differs between databases.
        labels |= {str(one) for one in _left_to_database(found) if one.rows(using, **one.to(keys))}
        warn_once(family, ", ".join(sorted(labels)) or str(error))
        return set(keys)
    return set()


def _delete(family: Family, keys: list[int], using: str, found: Collection[Reference]) -> None:
    root = family.root
    targets = [one.field.target_field for one in found if one.way]
    named = [target.name for target in targets if target.model is root]
    rows = root._base_manager.using(using).filter(**{f"{family.way}__in": keys})
    left_to_database = [
        (one, list(one.rows(using, **one.to(keys)).values_list("pk", flat=True)))
        for one in _left_to_database(found)
    ]
    if family.beforehand is not None:
        family.beforehand(keys, using)
    collector = Collector(using=using, origin=rows)
    collector.collect(rows.only("pk", *named))
    collector.delete()
    for one, referring in left_to_database:
        # The database may have deleted or changed them. Many check constraints at commit only.
        still = one.rows(using, pk__in=referring, **{f"{one.field.name}__isnull": False})
        if referring and still.exists():
            raise IntegrityError(str(one))


def _left_to_database(found: Collection[Reference]) -> list[Reference]:
    """Relations with DO_NOTHING, which only the database's own constraints enforce."""
    return [one for one in found if one.on_delete is DO_NOTHING and one.field.db_constraint]


def warn_once(family: Family, who: str) -> None:
    """Log, once per process, which relation keeps our rows from being pruned."""
    what = family.root._meta.verbose_name_plural
    if f"{what} {who}" not in _named:
        _named.add(f"{what} {who}")
        logger.warning(
            "Retention cannot delete some %s because of %s: delete the rows that refer to them, or "
            "change on_delete",
            what, who,
        )  # fmt: skip
