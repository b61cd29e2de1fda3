"""Numbers for people: cheap however large the tables, and exact only as far as it matters."""

from collections.abc import Sequence
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db import connections, models

MOST: Final = 10_000
"""Nobody needs to know by how much a backlog is larger."""


def count_capped(
    parts: Sequence["models.QuerySet[Any]"], using: str, most: int = MOST
) -> list[int]:
    """How many rows each of *parts* has, in one statement; *most* + 1 stands for more than that."""
    selects: list[str] = []
    parameters: list[Any] = []
    for number, part in enumerate(parts):
        query = part.using(using).order_by().values_list("pk")[: most + 1].query
        try:
            sql, values = query.get_compiler(using).as_sql()
        except EmptyResultSet:  # of a person who may see none of them
            selects.append("0")
            continue
        selects.append(f"(SELECT COUNT(*) FROM ({sql}) part{number})")  # noqa: S608 - compiled by the ORM
        parameters += values
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(selects)}", parameters)
        row = cursor.fetchone()
    return [int(count) for count in row or ()]
