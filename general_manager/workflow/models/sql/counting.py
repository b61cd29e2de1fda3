"""Capped counts: cheap on tables of any size, and exact up to the cap."""

from collections.abc import Sequence
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db import connections, models

from general_manager.cursors import cursor_on

MOST: Final = 10_000
"""The cap: larger backlogs are not counted further."""


def count_capped(
    parts: Sequence["models.QuerySet[Any]"], using: str, most: int = MOST
) -> list[int]:
    """The number of rows of each part, in one statement; *most* + 1 means more than *most*."""
    selects: list[str] = []
    parameters: list[Any] = []
    for number, part in enumerate(parts):
        query = part.using(using).order_by().values_list("pk")[: most + 1].query
        try:
            sql, values = query.get_compiler(using).as_sql()
        except EmptyResultSet:  # the user may see none of them
            selects.append("0")
            continue
        selects.append(f"(SELECT COUNT(*) FROM ({sql}) part{number})")
        parameters += values
    with cursor_on(connections[using]) as cursor:
        cursor.execute(f"SELECT {', '.join(selects)}", parameters)
        row = cursor.fetchone()
    return [int(count) for count in row or ()]
