"""Bounded reads: the database cuts long values and returns their length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from django.contrib import admin
from django.db.models import (
    Case,
    CharField,
    Expression,
    F,
    Field,
    JSONField,
    Model,
    QuerySet,
    TextField,
    When,
)
from django.db.models.functions import Cast, Left, Length, Right

from general_manager.escaping import visible

SHORT: Final = 300
"""Characters of a text in a list: enough for a whole id, or for the end of an error."""
LONG_TEXT: Final = 20_000
"""Characters of a text on its own page; a longer one shows its beginning and its end."""
MOST_READ: Final = 20_000_000
"""Longer JSON is not read at all: it can be redacted only as a whole."""


@dataclass(frozen=True, slots=True)
class NotRead:
    """Placeholder for JSON that is too long or that Python cannot read."""

    length: int

    def __str__(self) -> str:
        return f"(not shown: {self.length:,} characters in all)"


class _AnyJson(JSONField):
    """JSON that Python cannot read, such as too deep nesting, must not break the page."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        try:
            return super().from_db_value(value, expression, connection)
        except (ValueError, RecursionError):
            return NotRead(len(str(value)))


def texts_of(model: type[Model]) -> "list[Field[Any, Any]]":
    """The columns with free text, as opposed to those with a fixed set of values."""
    fields = model._meta.concrete_fields
    return [one for one in fields if isinstance(one, CharField | TextField) and not one.choices]


def json_of(model: type[Model]) -> "list[Field[Any, Any]]":
    return [one for one in model._meta.concrete_fields if isinstance(one, JSONField)]


def length_of(name: str) -> Expression:
    """The length of a text or JSON column in characters, on every database."""
    return Length(Cast(name, TextField()))


def json_within(size: str, name: str) -> Expression:
    """The column *name*, or NULL if the annotation *size* exceeds `MOST_READ`."""
    is_short = When(**{f"{size}__lte": MOST_READ}, then=F(name))
    return Case(is_short, output_field=_AnyJson())


class Bounded:
    """Bounded texts of *model* and of the models joined through the relations in *paths*."""

    def __init__(self, model: type[Model], paths: Sequence[str] = ()) -> None:
        self._cuts: list[tuple[str, tuple[str, ...]]] = []
        """Alias and path of each text."""
        self._add(model, ())
        joined: set[tuple[str, ...]] = set()
        for path in paths:
            related: type[Model] = model
            way: tuple[str, ...] = ()
            for part in path.split("__"):
                found: Any = related._meta.get_field(part)
                related, way = found.related_model, (*way, part)
                if way not in joined:
                    joined.add(way)
                    self._add(related, way)

    def _add(self, model: type[Model], way: tuple[str, ...]) -> None:
        for one in texts_of(model):
            self._cuts.append((f"gm_text_{len(self._cuts)}", (*way, one.name)))

    def _cut(self, rows: "QuerySet[Any]") -> "QuerySet[Any]":
        """*rows* with the beginning of each text, or the end if it is an error."""
        cut: dict[str, Any] = {}
        for alias, parts in self._cuts:
            path = "__".join(parts)
            cut[alias] = Right(path, SHORT) if parts[-1] == "error" else Left(path, SHORT)
        found: Any = rows.defer(*("__".join(parts) for _, parts in self._cuts))
        return cast("QuerySet[Any]", found.annotate(**cut))

    def read(self, rows: "QuerySet[Any]") -> list[Any]:
        found = list(self._cut(rows))
        for row in found:
            self._settle(row)
        return found

    def _settle(self, row: Any) -> None:
        """Set the values that were read as the columns' attributes."""
        for alias, parts in self._cuts:
            owner = row
            for part in parts[:-1]:
                owner = getattr(owner, part)
            owner.__dict__[parts[-1]] = row.__dict__.pop(alias, None)


def get_bounded(rows: "QuerySet[Any]", **which: Any) -> Any:
    """One row with bounded texts and JSON. Raises `DoesNotExist`."""
    texts = {one.name: LONG_TEXT if isinstance(one, TextField) else 2 * SHORT
             for one in texts_of(rows.model)}  # fmt: skip
    values = [one.name for one in json_of(rows.model)]
    read: dict[str, Any] = {}
    for name, most in texts.items():
        read |= {f"gm_head_{name}": Left(name, most), f"gm_tail_{name}": Right(name, most // 2)}
        read[f"gm_size_{name}"] = Length(name)
    for name in values:
        read[f"gm_size_{name}"] = length_of(name)
        read[f"gm_json_{name}"] = json_within(f"gm_size_{name}", name)
    row = rows.defer(*texts, *values).annotate(**read).get(**which)
    kept = row.__dict__
    for name, most in texts.items():
        head, tail = kept.pop(f"gm_head_{name}"), kept.pop(f"gm_tail_{name}")
        size = kept.pop(f"gm_size_{name}") or 0
        is_whole = size <= most
        kept[name] = head if is_whole else _both_ends(head[: most // 2], tail, size)
    for name in values:
        size, found = kept.pop(f"gm_size_{name}") or 0, kept.pop(f"gm_json_{name}")
        kept[name] = NotRead(size) if size > MOST_READ else found
    return row


def _both_ends(head: str, tail: str, size: int) -> str:
    """The beginning and the end of an error."""
    return f"{head}\n… ({size:,} characters in all)\n{tail}"


@cache  # Django compares the results of two calls
def shown(field: "Field[Any, Any]") -> Callable[[Any], Any]:
    """A column for a page's fields that makes every character visible."""

    @admin.display(description=field.verbose_name, empty_value=None)
    def column(row: Any) -> Any:
        value = getattr(row, field.name)
        return visible(value, lines=True) if isinstance(value, str) else value

    column.__name__ = field.name
    return column


def with_visible_texts(fields: Any, model: type[Model]) -> Iterator[Any]:
    """Field names as fieldsets have them, each text column replaced by its visible form."""
    texts = {one.name: one for one in texts_of(model)}
    for one in fields:
        if isinstance(one, list | tuple):
            yield tuple(with_visible_texts(one, model))
        else:
            yield shown(texts[one]) if isinstance(one, str) and one in texts else one
