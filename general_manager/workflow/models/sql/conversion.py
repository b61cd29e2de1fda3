"""Converts what a database returns for compiled statements into the values of fields."""

from collections.abc import Sequence
from typing import Any

from django.db import models


class Conversion:
    """Of rows with these *columns*. Most columns need none, so those that do are found once."""

    def __init__(self, columns: Sequence[Any], using: str) -> None:
        self._using = using
        places = self._compiler().get_converters(columns)
        self._columns = {place: columns[place] for place in places}

    def of(self, rows: Sequence[Any]) -> Any:
        if not self._columns:
            return rows
        compiler = self._compiler()
        # They belong to one thread's connection, so they are not kept.
        found = compiler.get_converters(self._columns.values()).values()
        return compiler.apply_converters(rows, dict(zip(self._columns, found, strict=True)))

    def _compiler(self) -> Any:
        return models.sql.Query(None).get_compiler(self._using)
