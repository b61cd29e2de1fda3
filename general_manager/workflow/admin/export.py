"""Streamed CSV of a list, with cells that no spreadsheet evaluates as formulas."""

import csv
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from json import dumps
from typing import Any, Final

from django.contrib import admin
from django.db.models import CharField, JSONField, QuerySet, TextField
from django.db.models.functions import Left, Length
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.admin.bounds import MOST_READ, NotRead, json_within, length_of
from general_manager.workflow.core.redaction import excerpt
from general_manager.workflow.operations.moments import in_zone

EXPORT_BATCH: Final = 200
"""Rows that are processed together."""
MOST_CHARACTERS: Final = 4_000_000
"""Characters of JSON in memory at once; a single row may exceed it."""
MOST_IN_CELL: Final = 32_000
"""Characters: spreadsheets accept 32,767."""
NOTE: Final = 60
"""Room for the note that says how long a cut text is."""
FORMULA: Final = re.compile(
    # Characters that a spreadsheet may skip first: spaces, controls, zero-width characters.
    r"[\s\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb'\"]*"
    # Characters that then begin a formula, also full-width or small, or as a minus sign.
    r"[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
)
CONTROL: Final = ("\t", "\r", "\n", "\x00")
"""Text that begins with these moves to another cell when it is pasted."""


@admin.action(description=_("Export as CSV"), permissions=["view"])
def export_as_csv(
    page: Any, request: HttpRequest, queryset: "QuerySet[Any]"
) -> StreamingHttpResponse:
    """Rows in chunks by key: a million rows do not fit into memory.

    Not by a server-side cursor: a pooler in transaction mode cannot keep one.
    """
    name = page.model._meta.model_name
    return StreamingHttpResponse(
        _lines(page, request, queryset),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


class _Echo:
    def write(self, value: str) -> str:
        return value


def _lines(page: Any, request: HttpRequest, queryset: "QuerySet[Any]") -> Iterator[str]:
    writer = csv.writer(_Echo(), quoting=csv.QUOTE_ALL)
    names = list(page.export_fields)
    yield str(writer.writerow(names))
    for row in _rows(page, request, queryset, names):
        yield str(writer.writerow([cell(value) for value in row]))


def _rows(
    page: Any, request: HttpRequest, queryset: "QuerySet[Any]", names: Sequence[str]
) -> Iterator[list[Any]]:
    columns = {name: _column(queryset.model, name) for name in names}
    jsons = [name for name, column in columns.items() if isinstance(column, JSONField)]
    texts = [name for name, column in columns.items() if isinstance(column, CharField | TextField)]
    rows = queryset.defer(None).select_related(None).order_by("pk")
    sizes = {f"gm_size_{number}": length_of(name) for number, name in enumerate(jsons)}
    last: Any = None
    while True:
        part = rows if last is None else rows.filter(pk__gt=last)
        found = list(part.only("pk").annotate(**sizes)[:EXPORT_BATCH])
        if not found:
            return
        last = found[-1].pk
        # The page may decide row by row who sees it, and loads what it needs for that.
        seen = [row for row in found if page.has_view_permission(request, row)]
        lengths = [(row.pk, sum(getattr(row, one) or 0 for one in sizes)) for row in seen]
        for keys in _groups(lengths):
            some = rows.filter(pk__in=keys)
            hidden = _hidden(page, request, some, columns)
            for key, cells in _read(some, names, texts, jsons):
                yield [
                    None if key in hidden.get(name.rpartition("__")[0], ()) else one
                    for name, one in zip(names, cells, strict=True)
                ]


def _hidden(
    page: Any, request: HttpRequest, rows: "QuerySet[Any]", columns: dict[str, Any]
) -> dict[str, set[Any]]:
    """For each relation, the keys of rows whose related row is hidden from this user."""
    reader = page.reader(request)
    hidden: dict[str, set[Any]] = {}
    for name, column in columns.items():
        way = name.rpartition("__")[0]
        if not way or way in hidden:
            continue
        keys = dict(rows.order_by().values_list("pk", way))
        related = reader.rows(column.model).filter(pk__in=set(keys.values())).only("pk")
        seen = {row.pk for row in reader.seen(related)}
        hidden[way] = {key for key, one in keys.items() if one not in seen}
    return hidden


def _groups(lengths: Sequence[tuple[Any, int]]) -> Iterator[list[Any]]:
    keys: list[Any] = []
    size = 0
    for key, length in lengths:
        read = min(length, MOST_READ)
        if keys and size + read > MOST_CHARACTERS:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += read
    if keys:
        yield keys


def _read(
    rows: "QuerySet[Any]", names: Sequence[str], texts: Sequence[str], jsons: Sequence[str]
) -> Iterator[tuple[Any, list[Any]]]:
    read: dict[str, Any] = {}
    for number, name in enumerate(names):
        if name in texts:
            read[f"gm_size_{number}"] = Length(name)
            read[f"gm_read_{number}"] = Left(name, MOST_IN_CELL)
        elif name in jsons:
            read[f"gm_size_{number}"] = length_of(name)
            read[f"gm_read_{number}"] = json_within(f"gm_size_{number}", name)
    plain = [name for name in names if name not in texts and name not in jsons]
    for row in rows.annotate(**read).values("pk", *plain, *read):
        yield (
            row["pk"],
            [
                _value(
                    row[f"gm_read_{number}"], row[f"gm_size_{number}"] or 0, is_json=name in jsons
                )
                if f"gm_read_{number}" in read
                else row[name]
                for number, name in enumerate(names)
            ],
        )


def _value(read: Any, size: int, *, is_json: bool) -> Any:
    if is_json:
        return NotRead(size) if size > MOST_READ else read
    return _cut(read, size) if isinstance(read, str) else read


def _column(model: Any, name: str) -> Any:
    """The column behind a path of names."""
    *way, last = name.split("__")
    for part in way:
        model = model._meta.get_field(part).related_model
    return model._meta.get_field(last)


def _cut(text: str, size: int) -> str:
    if size <= MOST_IN_CELL and len(text) <= MOST_IN_CELL:
        return text
    return f"{text[:MOST_IN_CELL]} … ({size:,} characters in all)"


def cell(value: Any) -> str:
    """Plain text. A leading quote keeps a spreadsheet from evaluating it as a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return in_zone(value).isoformat()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict | list):
        value = dumps(excerpt(value), ensure_ascii=False, default=str)
    text = str(value).encode("utf-8", "backslashreplace").decode()
    text = text if len(text) <= MOST_IN_CELL + NOTE else _cut(text, len(text))
    return f"'{text}" if text.startswith(CONTROL) or FORMULA.match(text) else text
