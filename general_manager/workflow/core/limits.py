"""How many executions of a workflow may run, or start, at once: `Limit` and `Rate`; plain types."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from hashlib import sha256
from json import dumps
from typing import Any, Final, NamedTuple, Self

from general_manager.conf import is_configured
from general_manager.durations import in_words
from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id
from general_manager.workflow.core.redaction import REDACTED, is_secret
from general_manager.workflow.exceptions import WorkflowError

LONGEST_PERIOD: Final = timedelta(days=365)
"""The maximum period of a rate."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most *most* executions run at once; the others wait in line, oldest first.

    With *key*, a path into the input such as ``customer_id`` or ``order.customer_id``, at most so
    many for each value there. A workflow has slots of its own, unless it names a limit that it
    shares with others. Raises `TypeError` or `ValueError`.
    """

    most: int
    _: KW_ONLY
    key: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most *most* executions start within any window of length *per*; the others wait in line.

    *key* and *name* as for `Limit`. An execution counts once, when it first starts. Raises
    `TypeError` or `ValueError`.
    """

    most: int
    _: KW_ONLY
    per: timedelta
    key: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        _check(self)
        if not isinstance(self.per, timedelta):
            raise TypeError(f"Rate.per must be a timedelta, not {self.per!r}")
        if not timedelta(0) < self.per <= LONGEST_PERIOD:
            raise ValueError(f"Rate.per must be longer than 0 and at most a year, not {self.per!r}")


def _check(one: Limit | Rate) -> None:
    kind = type(one).__name__
    if isinstance(one.most, bool) or not isinstance(one.most, int):
        raise TypeError(f"{kind}.most must be a whole number, not {one.most!r}")
    if one.most < 1:
        raise ValueError(f"{kind}.most must be 1 or more, not {one.most}")
    if one.key is not None:
        require_id(f"{kind}.key", one.key)
    if one.name != "":
        require_id(f"{kind}.name", one.name)


class LimitKeyError(WorkflowError, ValueError):
    """The input of an execution has no usable value for the key of its workflow's limit."""

    def __init__(self, workflow_id: str, path: str, problem: str) -> None:
        super().__init__(workflow_id, path, problem)
        self.workflow_id = workflow_id
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"Workflow {self.workflow_id!r} is limited by {self.path!r}, {self.problem}. "
            "Start it with that value in input_data, or change the key of its limit."
        )


class Numbers(NamedTuple):
    """How many may run at once, and how many may start within *per*; `None` for any number."""

    most: int | None = None
    rate: int | None = None
    per: timedelta | None = None

    def __str__(self) -> str:
        parts = [] if self.most is None else [f"{self.most:,} at once"]
        if self.rate is not None and self.per is not None:
            parts.append(f"{self.rate:,} per {in_words(self.per)}")
        return ", ".join(parts)


class Line(NamedTuple):
    """The line in which executions wait that share slots, and the *numbers* of these."""

    key: str
    """Hash of scope and value."""
    scope: str
    """The limit's name, or else the workflow; says by its beginning which of them."""
    label: str
    """For people: ``erp``, or ``orders: customer_id=7``."""
    numbers: Numbers

    def to_json(self) -> dict[str, Any]:
        most, rate, per = self.numbers
        seconds = None if per is None else per.total_seconds()
        about = {"scope": self.scope, "label": self.label}
        return {**about, "most": most, "rate": rate, "per": seconds}

    @classmethod
    def from_json(cls, key: str, stored: Mapping[str, Any]) -> Self:
        seconds = stored["per"]
        per = None if seconds is None else timedelta(seconds=seconds)
        numbers = Numbers(stored["most"], stored["rate"], per)
        return cls(key, stored["scope"], stored["label"], numbers)


class Declared(NamedTuple):
    """The limits of one workflow's definition."""

    scope: str
    numbers: Numbers


_declared: Final[dict[str, Declared]] = {}
"""By workflow id, as this process has last defined them."""


def declare(workflow_id: str, limit: Limit | None, rate: Rate | None) -> None:
    """Remember what a definition says: a look follows the numbers of the process that looks."""
    one = limit or rate
    if one is None:
        _declared.pop(workflow_id, None)
        return
    if limit is not None and rate is not None:
        for name in ("key", "name"):
            if getattr(limit, name) != getattr(rate, name):
                raise ValueError(
                    f"The limit and the rate of workflow {workflow_id!r} must have the same "
                    f"{name}, not {getattr(limit, name)!r} and {getattr(rate, name)!r}: their "
                    "executions wait in one line"
                )
    _declared[workflow_id] = Declared(_scope(workflow_id, one), _numbers(limit, rate))


def has_rates() -> bool:
    """Whether this process defines a workflow with a rate, whose line moves with time."""
    return any(one.numbers.rate is not None for one in list(_declared.values()))


def declared_numbers(scope: str) -> Numbers | None:
    """The numbers of that scope in this process; `None` if it does not define such a workflow."""
    found = (one.numbers for one in list(_declared.values()) if one.scope == scope)
    return next(found, None)


def all_declared() -> dict[str, Declared]:
    return dict(_declared)


def line_of(
    workflow_id: str, limit: Limit | None, rate: Rate | None, input_data: Mapping[str, Any]
) -> Line | None:
    """The line of an execution with that input; `None` without a limit. Raises `LimitKeyError`."""
    one = limit or rate
    if one is None:
        return None
    scope = _scope(workflow_id, one)
    label = one.name or workflow_id
    value = None
    if one.key is not None:
        value = _value_at(workflow_id, one.key, input_data)
        label = f"{label}: {one.key}={_shown(one.key, value)}"
    text = f"{scope}\0{one.key is not None}\0{dumps(value)}"
    key = sha256(text.encode()).hexdigest()
    return Line(key, scope, label[:MAX_ID_LENGTH], _numbers(limit, rate))


def _shown(path: str, value: Any) -> str:
    """Labels are on pages and in messages of health, so a secret value is not part of them."""
    if is_configured() and any(is_secret(name) for name in path.split(".")):
        return REDACTED
    return value if isinstance(value, str) else dumps(value)


def _scope(workflow_id: str, one: Limit | Rate) -> str:
    return f"name:{one.name}" if one.name else f"workflow:{workflow_id}"


def _numbers(limit: Limit | None, rate: Rate | None) -> Numbers:
    most = None if limit is None else limit.most
    return Numbers(most) if rate is None else Numbers(most, rate.most, rate.per)


def _value_at(workflow_id: str, path: str, input_data: Mapping[str, Any]) -> Any:
    value: Any = input_data
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise LimitKeyError(workflow_id, path, "which is not in its input")
        value = value[name]
    if isinstance(value, Mapping | list):
        raise LimitKeyError(workflow_id, path, "which is not a single value in its input")
    return value
