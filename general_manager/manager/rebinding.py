"""Move methods from one class to another, with a working ``super()``.

``super()`` finds the class that defines a method in a cell of the function's closure. A method
that moves needs another cell, however many decorators wrap the function.
"""

from collections.abc import Collection, Iterator
from copy import copy
from functools import cached_property as functools_cached_property
from functools import lru_cache, partial, partialmethod
from types import CellType, FunctionType
from typing import Any, Final

from django.db.models import Field
from django.db.models.manager import BaseManager
from django.utils.functional import cached_property

_CACHING: Final[Any] = type(lru_cache(lambda: None))
_CALLED: Final = (
    FunctionType, classmethod, staticmethod, property, partial, partialmethod, _CACHING,
)  # fmt: skip
_CELL: Final = "__class__"


class Rebinding:
    """Copies methods of the *written_in* classes for the class that *cell* will contain."""

    def __init__(self, cell: CellType, written_in: Collection[type]) -> None:
        self._cell = cell
        self._written_in = written_in
        self._made: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:  # noqa: PLR0911 - one branch per kind
        """*value*, or a copy of it whose ``super()`` uses the new class."""
        if not self._leads_to_super(value, set()):
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, classmethod | staticmethod):
            return type(value)(self(value.__func__))
        if isinstance(value, property):
            return type(value)(self(value.fget), self(value.fset), self(value.fdel), value.__doc__)
        if isinstance(value, cached_property | functools_cached_property):
            return type(value)(self(value.func))
        if isinstance(value, partial | partialmethod):
            return type(value)(self(value.func), *value.args, **value.keywords)
        if isinstance(value, _CACHING):
            return lru_cache(**value.cache_parameters())(self(value.__wrapped__))
        copied = copy(value)  # a decorator that is an object
        vars(copied).update({name: self(item) for name, item in vars(value).items()})
        return copied

    def _function(self, value: FunctionType) -> FunctionType:
        cells = [
            (name, cell, CellType() if self._leads_to_super(_contents(cell), set()) else cell)
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        ]
        closure = tuple(
            self._cell if self._is_ours(name, cell) else new for name, cell, new in cells
        )
        function = FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
        )
        self._made[id(value)] = function  # its own closure may contain it
        for name, cell, new in cells:
            if new is not cell and not self._is_ours(name, cell):
                new.cell_contents = self(cell.cell_contents)
        function.__kwdefaults__ = value.__kwdefaults__
        function.__annotations__ = value.__annotations__
        function.__doc__, function.__module__ = value.__doc__, value.__module__
        function.__qualname__ = value.__qualname__
        vars(function).update({name: self(item) for name, item in vars(value).items()})
        return function

    def _is_ours(self, name: str, cell: CellType) -> bool:
        return name == _CELL and any(_contents(cell) is one for one in self._written_in)

    def _leads_to_super(self, value: Any, seen: set[int]) -> bool:
        if id(value) in seen:
            return False
        seen.add(id(value))
        if isinstance(value, FunctionType):
            cells = list(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
            if any(self._is_ours(name, cell) for name, cell in cells):
                return True
            inner: Iterator[Any] = (_contents(cell) for _, cell in cells)
            return any(self._leads_to_super(one, seen) for one in inner)
        return any(self._leads_to_super(one, seen) for one in _parts(value))


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


def _parts(value: Any) -> list[Any]:
    """Attributes in which a decorator may keep the wrapped function."""
    if isinstance(value, classmethod | staticmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, partial | partialmethod):
        return [value.func]
    if isinstance(value, type | Field | BaseManager):
        return []
    return [one for one in getattr(value, "__dict__", {}).values() if isinstance(one, _CALLED)]
