"""Schedules: workflows that start by the clock. Registered in ``ready()``, like handlers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from json import dumps
from threading import Lock
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from django.utils import timezone

from general_manager.conf import is_configured
from general_manager.escaping import get_logger
from general_manager.workflow.core.encoding import copy_encoded, encode_mapping
from general_manager.workflow.core.ids import MAX_ID_LENGTH, require_id
from general_manager.workflow.core.populations import current_population
from general_manager.workflow.core.slots import Timing, WrongTiming, parse_timing
from general_manager.workflow.engine import WorkflowDefinition
from general_manager.workflow.exceptions import WorkflowError

__all__ = ["Schedule", "ScheduleNotFoundError", "ScheduleRefusedError", "schedule"]

logger = get_logger(__name__)

Missed = Literal["latest", "all", "skip"]
Overlap = Literal["allow", "skip"]

SEPARATOR: Final = "@"
"""Stands between the name and the slot in a correlation id."""
LONGEST_NAME: Final = MAX_ID_LENGTH - 55
"""So that a correlation id also holds the slot."""
FASTEST: Final = timedelta(seconds=1)
SLOWEST: Final = timedelta(days=366)


class ScheduleNotFoundError(WorkflowError, LookupError):
    """No schedule has this name, or this process does not register it."""

    def __init__(self, name: object) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"No schedule {self.name!r} is registered in this process. "
            "Names: manage.py workflow_schedules"
        )


class ScheduleRefusedError(WorkflowError):
    """The act is not possible now; *reason* says why. Nothing was changed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"Schedule {self.name!r}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One registration, as `schedule` returns it. *timing* is `None` if it has a *problem*."""

    name: str
    workflow: WorkflowDefinition
    text: str
    """The cron expression, or ``every 600 s``."""
    tz: str
    input_data: Mapping[str, Any] = field(default_factory=dict)
    missed: Missed = "latest"
    overlap: Overlap = "allow"
    slot_key: str | None = None
    version: str = ""
    """Changes with each of its options that decide when it runs."""
    timing: Timing | None = field(default=None, repr=False)
    problem: str = ""
    """Why it never runs; `manage.py check` reports it, with the *hint*."""
    hint: str = field(default="", repr=False)

    def correlation_id(self, slot: datetime) -> str:
        """The id of the execution that *slot* starts: the name and the time in UTC."""
        return f"{self.name}{SEPARATOR}{slot.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def input_for(self, slot: datetime) -> dict[str, Any]:
        """The input of the execution that *slot* starts."""
        given = copy_encoded(dict(self.input_data))
        if self.slot_key is not None:
            given[self.slot_key] = slot.astimezone(ZoneInfo(self.tz)).isoformat()
        return dict(given)


def schedule(
    name: str,
    workflow: WorkflowDefinition,
    *,
    cron: str | None = None,
    every: timedelta | None = None,
    tz: str | None = None,
    input_data: Mapping[str, Any] | None = None,
    missed: Missed = "latest",
    overlap: Overlap = "allow",
    slot_key: str | None = None,
    version: str = "",
) -> Schedule:
    """Start *workflow* at each slot of *cron* in the zone *tz*, or *every* so often.

    *cron* has five fields; *tz* is the project's ``TIME_ZONE`` by default. Fixed hours follow the
    clock: one that daylight saving leaves out runs at the change, one that comes twice runs once.
    Slots of *every* are counted from 1970 in UTC, whenever the process started.

    A slot that starts up to five minutes late is on time. After a longer gap *missed* decides:
    ``"latest"`` starts the last slot, ``"all"`` each one, ``"skip"`` none that is late. With
    ``overlap="skip"`` a slot is skipped while an execution of the schedule is active.

    Each execution gets *input_data*, and under *slot_key*, if given, the time of its slot in ISO
    8601. Its correlation id is ``name@slot``, with the slot in UTC.

    A wrong expression, an unknown zone or a name that is taken raises nothing: such a schedule does
    not run, is logged, and is an error of `manage.py check`. A change of the options takes effect
    with the first process that has it; processes with older code do not change it back. Give
    another *version* to go back to options that were in force before at once.
    """
    text, zone = _timing_text(cron, every, tz)
    _require(name, workflow, missed, overlap, slot_key)
    timing, problem, hint = _read(text, zone)
    data = encode_mapping({} if input_data is None else input_data, root="input_data")
    made = Schedule(
        name=name,
        workflow=workflow,
        text=text if timing is None else timing.text,
        tz=zone,
        input_data=data,
        missed=missed,
        overlap=overlap,
        slot_key=slot_key,
        version=_hash(version, text, zone, missed, overlap, workflow.workflow_id),
        timing=timing,
        problem=problem,
        hint=hint,
    )
    return _register(made)


def _timing_text(cron: object, every: object, tz: object) -> tuple[str, str]:
    if (cron is None) == (every is None):
        raise TypeError("schedule() takes either cron= or every=")
    if tz is not None and not isinstance(tz, str):
        raise TypeError(f"tz must be the name of a time zone, such as 'Europe/Berlin', not {tz!r}")
    if cron is not None:
        if not isinstance(cron, str):
            raise TypeError(f"cron must be text, such as '0 3 * * *', not {cron!r}")
        return cron, tz or (timezone.get_default_timezone_name() if is_configured() else "UTC")
    if not isinstance(every, timedelta):
        raise TypeError(f"every must be a timedelta, not {every!r}")
    if tz is not None:
        raise TypeError("every= is not a time of day, so tz= means nothing. Use cron=.")
    if every.microseconds or not FASTEST <= every <= SLOWEST:
        raise ValueError(f"every must be whole seconds, from one to a year, not {every!r}")
    return f"every {every // timedelta(seconds=1)} s", "UTC"


def _require(
    name: object, workflow: object, missed: object, overlap: object, slot_key: object
) -> None:
    require_id("name", name)
    if SEPARATOR in str(name) or len(str(name)) > LONGEST_NAME:
        raise ValueError(
            f"The name of a schedule has at most {LONGEST_NAME} characters and no {SEPARATOR!r}: "
            f"{name!r}"
        )
    if not isinstance(workflow, WorkflowDefinition):
        raise TypeError(f"schedule() takes a WorkflowDefinition, not {workflow!r}")
    for option, value, choices in (
        ("missed", missed, get_args(Missed)),
        ("overlap", overlap, get_args(Overlap)),
    ):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}, not {value!r}")
    if slot_key is not None and not isinstance(slot_key, str):
        raise TypeError(f"slot_key must be a key of the input or None, not {slot_key!r}")


def _read(text: str, tz: str) -> tuple[Timing | None, str, str]:
    try:
        return parse_timing(text, tz), "", ""
    except WrongTiming as error:
        return None, str(error), error.hint


def _hash(*options: str) -> str:
    return sha256(dumps(options).encode()).hexdigest()[:16]


_lock: Final = Lock()
_registered: Final[dict[str, Schedule]] = {}
_populations: Final[dict[str, object]] = {}
"""Which population of Django's apps each was registered in: see `current_population`."""
_doubled: Final[dict[str, Schedule]] = {}
"""Later registrations of a name that another schedule has."""


def _register(made: Schedule) -> Schedule:
    population = current_population()
    with _lock:
        first = _registered.get(made.name)
        is_repeated = population is not None and _populations.get(made.name) is not population
        if first is None or is_repeated:  # a `ready()` that runs again replaces what it made
            _registered[made.name], _populations[made.name] = made, population
            return made
        if first == made:
            return first
        _doubled[made.name] = made
    logger.error("Schedule %r is registered twice, with different options.", made.name)
    return made


def all_schedules() -> dict[str, Schedule]:
    """The registrations of this process, by name."""
    with _lock:
        return dict(_registered)


def sound_schedules() -> dict[str, Schedule]:
    """Those that can run."""
    return {name: one for name, one in all_schedules().items() if one.timing is not None}


def doubled_schedules() -> dict[str, Schedule]:
    """Registrations that do not count, because their name was taken."""
    with _lock:
        return dict(_doubled)


def get_schedule(name: str) -> Schedule:
    """Raises `ScheduleNotFoundError`."""
    try:
        return sound_schedules()[name]
    except KeyError:
        raise ScheduleNotFoundError(name) from None


def forget_schedules() -> None:
    """Drop every registration. For tests."""
    with _lock:
        _registered.clear()
        _populations.clear()
        _doubled.clear()
