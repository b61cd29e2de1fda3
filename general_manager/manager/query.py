"""A queryset of managers instead of model instances."""

from collections.abc import Callable, Iterable, Iterator
from operator import is_not
from typing import Any, Generic, Self, TypeVar, overload

from django.db.models import Q, QuerySet

M = TypeVar("M")


class ManagerQuery(Generic[M]):
    """Wraps a queryset and is as lazy: nothing is read until it is iterated or counted.

    *wrap* turns an instance into a manager; *unwrap* turns a manager in a filter into an instance.
    """

    def __init__(
        self, wrap: Callable[[Any], M], unwrap: Callable[[Any], Any], queryset: QuerySet[Any]
    ) -> None:
        self._wrap = wrap
        self._unwrap = unwrap
        self.queryset = queryset

    def filter(self, *conditions: Any, **lookups: Any) -> Self:
        return self._with(self.queryset.filter(*self._plain(conditions), **self._lookups(lookups)))

    def exclude(self, *conditions: Any, **lookups: Any) -> Self:
        return self._with(self.queryset.exclude(*self._plain(conditions), **self._lookups(lookups)))

    def order_by(self, *names: Any) -> Self:
        return self._with(self.queryset.order_by(*names))

    def all(self) -> Self:
        return self._with(self.queryset.all())

    def get(self, *conditions: Any, **lookups: Any) -> M:
        return self._wrap(self.queryset.get(*self._plain(conditions), **self._lookups(lookups)))

    def first(self) -> M | None:
        instance = self.queryset.first()
        return None if instance is None else self._wrap(instance)

    def last(self) -> M | None:
        instance = self.queryset.last()
        return None if instance is None else self._wrap(instance)

    def count(self) -> int:
        return self.queryset.count()

    def exists(self) -> bool:
        return self.queryset.exists()

    def __iter__(self) -> Iterator[M]:
        return (self._wrap(instance) for instance in self.queryset)

    def __len__(self) -> int:
        return len(self.queryset)

    def __bool__(self) -> bool:
        return bool(self.queryset)

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> Self | list[M]: ...
    def __getitem__(self, index: int | slice) -> M | Self | list[M]:
        found = self.queryset[index]
        if isinstance(found, QuerySet):
            return self._with(found)
        if isinstance(found, list):
            return [self._wrap(instance) for instance in found]
        return self._wrap(found)

    def __contains__(self, manager: object) -> bool:
        return any(manager == one for one in self)

    def __repr__(self) -> str:
        shown = [repr(one) for one in self[:21]]
        if len(shown) > 20:
            shown[-1] = "..."
        return f"<ManagerQuery [{', '.join(shown)}]>"

    def _with(self, queryset: QuerySet[Any]) -> Self:
        return type(self)(self._wrap, self._unwrap, queryset)

    def _plain(self, conditions: Iterable[Any]) -> list[Any]:
        """Conditions with managers replaced by instances, also inside `Q` objects."""
        return [self._condition(one) for one in conditions]

    def _condition(self, condition: Any) -> Any:
        if isinstance(condition, Q):
            copied = condition.copy()
            copied.children = self._plain(condition.children)
            return copied
        if isinstance(condition, tuple):
            return (condition[0], self._unwrap(condition[1]))
        return condition

    def _lookups(self, lookups: dict[str, Any]) -> dict[str, Any]:
        return {name: self._unwrap(value) for name, value in lookups.items()}


def unwrapped(value: Any, unwrap: Callable[[Any], Any]) -> Any:
    """*value* with the queryset of a `ManagerQuery`, and with its items in place of managers."""
    if isinstance(value, ManagerQuery):
        return value.queryset
    if isinstance(value, Iterator):
        return [unwrap(item) for item in value]
    if isinstance(value, list | tuple | set):  # it may be the value of a field: left as it is
        items = [item if isinstance(item, list | tuple | set) else unwrap(item) for item in value]
        return items if any(map(is_not, items, value)) else value
    return value
