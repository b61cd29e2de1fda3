"""Compare two runs of a workflow, except for values that differ between any two runs.

Keys, times and random values differ even between two runs without a crash. A differing value is
accepted if it can be traced in both runs to the same column of a matching row, or to the same place
in the result of the same step. So an output may contain the key of a created row, but not an
unrelated number that differs.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from django.db import models
from django.db.models.expressions import Value

from general_manager.workflow.testing.effects import Row, Table

TIME: Final = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
UUID: Final = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
TOKENS: Final = re.compile(rf"{TIME}|{UUID}|\d+\.\d+|\w+|\W", re.ASCII | re.DOTALL)
PARTS: Final = re.compile(r"\d+|\D+", re.ASCII)
"""A key within a word, such as ``tag17``."""
LIKE: Final = {"time": re.compile(TIME), "uuid": re.compile(UUID)}

Labels = dict[str, set[tuple[object, ...]]]
"""The origin of a value: a column of a row, or a place in a step's result."""


@dataclass(frozen=True)
class Observed:
    """The output, step results, rows and effects of one run."""

    output: dict[str, Any]
    steps: dict[str, Any]
    tables: list[Table]
    added: Counter[str]
    """Counts of a project's own effects."""


class Comparison:
    """One run without a crash, and which of its values differ between such runs."""

    def __init__(self, calm: Sequence[Observed]) -> None:
        self.calm = calm[0]
        self.changing_columns = set(_changing_columns(calm))
        self.changing_places = {
            place
            for other in calm[1:]
            for place, value in _leaves(self.calm.steps)
            if dict(_leaves(other.steps)).get(place, value) != value
        }
        self.templates = list(_templates(calm))
        self._calm_labels = self.labels(self.calm)

    def difference(self, other: Observed) -> str:
        """How *other* differs from the run without a crash, in words; empty if it does not."""
        for label, before, after in self._stable_tables(other):
            if before != after:
                return f"the rows of {label} differ:\n{_in_words(before, after)}"
        labels = self.labels(other)
        if not self._is_same(self.calm.output, other.output, labels):
            return f"it returns {other.output!r}, but {self.calm.output!r} without the crash"
        return ""

    def added_difference(self, other: Counter[str]) -> str:
        before, after = self._masked(self.calm.added), self._masked(other)
        return "" if before == after else _in_words(before, after)

    def labels(self, observed: Observed) -> Labels:
        found: Labels = defaultdict(set)
        for model, columns, rows in observed.tables:
            changing = [self._is_changing(model, column) for column in columns]
            for row in rows:
                stable = _stable(row, changing)
                for column, value, is_changing in zip(columns, row, changing, strict=True):
                    if is_changing:
                        found[_canonical(value)].add((model, column.name, stable))
        for place, value in _leaves(observed.steps):
            if place in self.changing_places or _kind(str(value)):
                found[_canonical(str(value))].add(("step", *place))
        return found

    def _is_changing(self, model: type[models.Model], column: Any) -> bool:
        return (model, column.name) in self.changing_columns or is_generated(column)

    def _stable_tables(self, other: Observed) -> Iterator[tuple[str, Counter[Any], Counter[Any]]]:
        found: dict[str, list[Counter[Any]]] = defaultdict(lambda: [Counter(), Counter()])
        for at, observed in enumerate((self.calm, other)):
            for model, columns, rows in observed.tables:
                changing = [self._is_changing(model, column) for column in columns]
                names = [c.name for c, is_so in zip(columns, changing, strict=True) if not is_so]
                for row in rows:
                    stable = zip(names, _stable(row, changing), strict=True)
                    found[model._meta.label][at][tuple(stable)] += 1
        return ((label, before, after) for label, (before, after) in found.items())

    def _is_same(self, calm: Any, other: Any, labels: Labels) -> bool:
        if isinstance(calm, dict) and isinstance(other, dict):
            return calm.keys() == other.keys() and all(
                self._is_same(value, other[key], labels) for key, value in calm.items()
            )
        if isinstance(calm, list) and isinstance(other, list):
            return len(calm) == len(other) and all(
                self._is_same(one, two, labels) for one, two in zip(calm, other, strict=True)
            )
        if type(calm) is not type(other):
            return False
        if not isinstance(calm, str):
            return bool(calm == other) or self._is_traced(str(calm), str(other), labels)
        return self._is_same_text(calm, other, labels, TOKENS, PARTS)

    def _is_same_text(
        self, calm: str, other: str, labels: Labels, *patterns: re.Pattern[str]
    ) -> bool:
        """Whether the texts differ only in words, or parts of words, that can be traced."""
        if calm == other or self._is_traced(calm, other, labels):
            return True
        if not patterns:
            return False
        pairs = zip_longest(patterns[0].findall(calm), patterns[0].findall(other), fillvalue="")
        return all(self._is_same_text(one, two, labels, *patterns[1:]) for one, two in pairs)

    def _is_traced(self, calm: str, other: str, labels: Labels) -> bool:
        """Whether both have the same origin, or are times or ids without one."""
        one = self._calm_labels.get(_canonical(calm), set())
        two = labels.get(_canonical(other), set())
        if one or two:
            return bool(one & two)
        return _kind(calm) is not None and _kind(calm) == _kind(other)

    def _masked(self, added: Counter[str]) -> Counter[str]:
        """*added* without the parts of each text that differ between runs without a crash."""
        found: Counter[str] = Counter()
        for text, count in added.items():
            found[_mask(text, self.templates)] += count
        return found


def is_generated(column: Any) -> bool:
    """Whether equal rows may differ in this column.

    True for keys and references to them, and for times and ids that are set on saving.
    """
    if isinstance(column, models.AutoField) or column.is_relation:
        return True
    if getattr(column, "auto_now", False) or getattr(column, "auto_now_add", False):
        return True
    if isinstance(column, models.UUIDField) and column.primary_key:
        return True
    moving = (models.DateField, models.TimeField, models.UUIDField)
    if isinstance(column, moving) and callable(column.default):
        return True
    default = getattr(column, "db_default", models.NOT_PROVIDED)
    return default is not models.NOT_PROVIDED and hasattr(default, "resolve_expression") and (
        not isinstance(default, Value)
    )  # fmt: skip


def _changing_columns(calm: Sequence[Observed]) -> Iterator[tuple[type[models.Model], str]]:
    """Columns whose values differ between two runs without a crash."""
    counted = [
        {
            (model, column.name): Counter(row[at] for row in rows)
            for model, columns, rows in observed.tables
            for at, column in enumerate(columns)
        }
        for observed in calm
    ]
    for other in counted[1:]:
        yield from (key for key, values in counted[0].items() if other.get(key) != values)


def _templates(calm: Sequence[Observed]) -> Iterator[tuple[list[str], set[int]]]:
    """Texts of own effects as tokens, with the tokens that differ between runs without a crash."""
    first = sorted(calm[0].added)
    for other in calm[1:]:
        for one, two in zip(first, sorted(other.added), strict=False):
            before, after = TOKENS.findall(one), TOKENS.findall(two)
            if one != two and len(before) == len(after):
                pairs = enumerate(zip(before, after, strict=True))
                yield before, {at for at, (a, b) in pairs if a != b}


def _mask(text: str, templates: Sequence[tuple[list[str], set[int]]]) -> str:
    tokens = TOKENS.findall(text)
    for template, masked in templates:
        if len(template) == len(tokens) and all(
            at in masked or one == two
            for at, (one, two) in enumerate(zip(template, tokens, strict=True))
        ):
            return "".join("…" if at in masked else one for at, one in enumerate(template))
    return text


def _stable(row: Row, changing: Sequence[bool]) -> Row:
    return tuple(value for value, is_so in zip(row, changing, strict=True) if not is_so)


def _leaves(value: Any, place: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*place, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _leaves(item, (*place, at))
    else:
        yield place, value


def _kind(text: str) -> str | None:
    return next((name for name, pattern in LIKE.items() if pattern.fullmatch(text)), None)


def _canonical(text: str) -> str:
    """Times and ids in one spelling, however they were converted to text."""
    kind = _kind(text)
    if kind == "uuid":
        return text.replace("-", "").lower()
    if kind == "time":
        return re.sub(r"\+00:?00$", "Z", text.replace(" ", "T"))
    return text


def _in_words(before: Counter[Any], after: Counter[Any]) -> str:
    lines = [f"  in addition, {_times(n)}: {_shown(one)}" for one, n in (after - before).items()]
    lines += [f"  missing, {_times(n)}: {_shown(one)}" for one, n in (before - after).items()]
    return "\n".join(lines)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _shown(one: Any) -> str:
    if isinstance(one, tuple):
        return ", ".join(f"{name}={value!r}" for name, value in one) or "a row"
    return str(one)
