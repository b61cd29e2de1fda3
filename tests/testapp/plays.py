"""Handlers that the engines' contract is tested with: what they do is in their input, or on stage.

At the top level of a module, as workers need them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.db import transaction

from general_manager.workflow import (
    PermanentFailure,
    Retry,
    RetryAfter,
    StepFailed,
    WaitTimeout,
    continue_as_new,
    current_execution_id,
    get_workflow_engine,
    saga,
    sleep,
    step,
    wait_for,
)
from tests.testapp.models import Tag

HOUR = timedelta(hours=1)


@dataclass
class Stage:
    """What a test arranges, and what it saw."""

    calls: list[str] = field(default_factory=list)
    troubles: list[BaseException | None] = field(default_factory=list)
    """What becomes of each `stumble`, in order; `None` is a step that does not."""
    failing: set[str] = field(default_factory=set)
    """Keys of executions that fail where they can."""
    driver: Any = None
    seen: list[Any] = field(default_factory=list)
    """Values that a handler was given, or that it saw."""
    meanwhile: Callable[[], object] = lambda: None
    """What happens inside `do_meanwhile`."""


stage = Stage()


def reset() -> None:
    stage.calls.clear()
    stage.troubles.clear()
    stage.failing.clear()
    stage.seen.clear()


def stumble() -> None:
    trouble = stage.troubles.pop(0) if stage.troubles else None
    if trouble is not None:
        raise trouble


def note(name: str) -> str:
    stage.calls.append(name)
    return name


def echo(data: dict[str, Any]) -> dict[str, Any]:
    note("echo")
    return {"echo": data}


def spoil_the_input(data: dict[str, Any]) -> dict[str, Any]:
    data["seen"]["x"] = "spoilt"
    return {}


def nothing(data: dict[str, Any]) -> None:
    note("nothing")


def a_list(data: dict[str, Any]) -> Any:
    return [1]


def some_bytes(data: dict[str, Any]) -> Any:
    return {"x": {"y": b""}}


def fail(data: dict[str, Any]) -> None:
    note("fail")
    raise ValueError(data.get("text", "boom"))


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def fail_unspeakably(data: dict[str, Any]) -> None:
    raise UnspeakableError


def fail_as_told(data: dict[str, Any]) -> dict[str, Any]:
    note("attempt")
    stumble()
    return {}


def give_up(data: dict[str, Any]) -> None:
    note("attempt")
    raise PermanentFailure("never")


def come_again(data: dict[str, Any]) -> dict[str, Any]:
    note("attempt")
    if len(stage.calls) == 1:
        raise RetryAfter(HOUR)
    return {}


def two_steps(data: dict[str, Any]) -> dict[str, Any]:
    first = step("first", note, "first")
    stumble()
    second = step("second", note, "second")
    stumble()
    return {"steps": [first, second]}


def one_name_twice(data: dict[str, Any]) -> None:
    step("same", note, "one")
    step("same", note, "two")


def step_in_a_step(data: dict[str, Any]) -> None:
    step("outer", lambda: step("inner", note, "inner"))


def a_step_of_bytes(data: dict[str, Any]) -> None:
    step("bad", bytes)


def steps_as_json(data: dict[str, Any]) -> dict[str, Any]:
    return {"types": [type(step("pair", lambda: (1, HOUR))).__name__]}


def charge_once(data: dict[str, Any]) -> dict[str, Any]:
    result = step("charge", charge, once=True, atomic=False)
    note("after the charge")
    return {"charged": result}


def charge() -> str:
    note("charge")
    stumble()
    return "receipt"


def ask(data: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = wait_for("approval", timeout=24 * HOUR, ask=lambda: note("mail"))
    except WaitTimeout as error:
        return {"late": error.name}
    stumble()
    return {"answer": answer}


def ask_twice(data: dict[str, Any]) -> dict[str, Any]:
    return {"first": wait_for("first"), "second": wait_for("second")}


def answer_at_once(data: dict[str, Any]) -> dict[str, Any]:
    def answer() -> None:
        get_workflow_engine().resume(str(current_execution_id()), "at once", wait="approval")

    return {"answer": wait_for("approval", ask=answer)}


def nap(data: dict[str, Any]) -> dict[str, Any]:
    sleep("nap", HOUR)
    return {"slept": True}


def cancel_itself(data: dict[str, Any]) -> dict[str, Any]:
    step("before", note, "before")
    get_workflow_engine().cancel(str(current_execution_id()), reason="enough")
    step("after", Tag.objects.create, name="after")
    note("never reached")
    return {"never": "kept"}


def take_an_hour(data: dict[str, Any]) -> dict[str, Any]:
    step("before", note, "before")
    stage.driver.pass_time(HOUR)
    return {"too": "late"}


def take_an_hour_and_ask(data: dict[str, Any]) -> dict[str, Any]:
    stage.driver.pass_time(HOUR)
    return {"answer": wait_for("approval")}


def journey(data: dict[str, Any]) -> dict[str, Any]:
    """A bit of everything; fails wherever its key is among the failing."""
    first = step("first", note, "first")
    _fail_if_it_should(data)
    try:
        answer = wait_for("answer", timeout=24 * HOUR)
    except WaitTimeout:
        answer = "late"
    _fail_if_it_should(data)
    sleep("rest", HOUR)
    second = step("second", note, f"second {answer}")
    _fail_if_it_should(data)
    return {"all": [first, second]}


def charge_once_if_it_can(data: dict[str, Any]) -> dict[str, Any]:
    return {"charged": step("charge", _fail_if_it_should, data, once=True, atomic=False)}


def _fail_if_it_should(data: dict[str, Any]) -> None:
    if data["key"] in stage.failing:
        raise ValueError(f"{data['key']} fails")


def ask_for_payments(data: dict[str, Any]) -> dict[str, Any]:
    """Two waits that take the signals of one name, in order."""
    return {"paid": [wait_for(f"payment {number}", signal="paid") for number in (1, 2)]}


def ask_for_one(data: dict[str, Any]) -> dict[str, Any]:
    timeout = timedelta(seconds=data["timeout"]) if "timeout" in data else None
    stumble()
    try:
        answer = wait_for("paid", timeout=timeout, ask=lambda: note("asked"))
    except WaitTimeout:
        answer = "nobody"
    stumble()
    return {"paid": answer}


def pay_then_sign(data: dict[str, Any]) -> dict[str, Any]:
    paid = wait_for("paid")
    signed = wait_for("signed")
    stumble()
    return {"paid": paid, "signed": signed}


def signal_the_other(data: dict[str, Any]) -> dict[str, Any]:
    step("send", send_signal, data["to"], data["value"])
    stumble()
    return {}


def send_signal(to: str, value: Any) -> None:
    get_workflow_engine().signal(to, "paid", value)
    stumble()


def signal_oneself(data: dict[str, Any]) -> dict[str, Any]:
    step("send", send_signal, str(current_execution_id()), "mine")
    return {"paid": wait_for("paid")}


def outlive_the_deadline(data: dict[str, Any]) -> dict[str, Any]:
    """So much time passes in the middle of a run, and then it goes on."""
    stage.driver.pass_time(HOUR)
    try:
        step("late", note, "a late step")
    except Exception:
        note("caught")
        raise
    return {"late": True}


def sleep_for_long(data: dict[str, Any]) -> None:
    sleep("long", 2 * HOUR)


def count_payments(data: dict[str, Any]) -> dict[str, Any]:
    """One payment in each execution, three in all."""
    paid = wait_for("paid")
    step("book", note, f"book {paid}")
    total = data.get("total", 0) + paid
    if data.get("count", 0) < 2:
        continue_as_new({"total": total, "count": data.get("count", 0) + 1})
    return {"total": total}


def count_down(data: dict[str, Any]) -> dict[str, Any]:
    step("note", note, f"at {data['left']}")
    if data["left"]:
        continue_as_new({"left": data["left"] - 1})
    return {"counted": True}


def renew_badly(data: dict[str, Any]) -> None:
    if data["where"] == "in a step":
        step("inner", lambda: continue_as_new({}))
    elif data["where"] == "in a transaction":
        with transaction.atomic():
            continue_as_new({})
    elif data["where"] == "with bytes":
        continue_as_new({"bytes": b""})
    elif data["where"] == "with an open wait":
        try:
            wait_for("open", ask=fail_to_ask)
        except LookupError:
            continue_as_new({})


def fail_to_ask() -> None:
    raise LookupError


def swallow_the_renewal(data: dict[str, Any]) -> dict[str, Any]:
    if data.get("again"):
        return {"again": True}
    try:
        continue_as_new({"again": True})
    except BaseException:
        note("swallowed")
    return {"never": "seen"}


class UnknownBankError(Exception):
    """Cannot be rebuilt from JSON: its argument is an object."""

    def __init__(self, bank: object) -> None:
        super().__init__(bank)

    def __str__(self) -> str:
        return "unknown bank"


class DeclinedError(Exception):
    """Takes other arguments than its `args`, and has attributes."""

    def __init__(self, *, code: int, body: object = None) -> None:
        super().__init__(f"declined ({code})")
        self.code = code
        self.body = body


PATIENT = Retry(max_attempts=3, base=60, factor=1, jitter=0)


def try_to_book(data: dict[str, Any]) -> dict[str, Any]:
    """Books if it can, or apologises; with the options of its step in the input's keys."""
    options: dict[str, Any] = {"atomic": data.get("atomic", True)}
    if "attempts" in data:
        options["retry"] = replace(PATIENT, max_attempts=data["attempts"])
    if "seconds" in data:
        options["timeout"] = timedelta(seconds=data["seconds"])
    try:
        seat = step("seat", book, **options)
    except StepFailed as failure:
        note(f"caught {failure.error}")
        return {"apology": step("apologise", apologise, failure.error)}
    except Exception as error:
        note(f"caught {error}")
        return {"apology": step("apologise", apologise, str(error), atomic=False)}
    return {"seat": step("confirm", note, f"confirm {seat}", atomic=False)}


def book() -> int:
    note("book")
    stumble()
    return 7


def apologise(why: str) -> str:
    note(f"apologise {why}")
    stumble()
    return why


def book_or_fail(data: dict[str, Any]) -> dict[str, Any]:
    return {"seat": step("seat", book, retry=PATIENT)}


def book_plainly(data: dict[str, Any]) -> dict[str, Any]:
    return {"seat": step("seat", book)}


def book_late(data: dict[str, Any]) -> dict[str, Any]:
    """Each attempt takes an hour, and may take a minute."""
    retry = replace(PATIENT, max_attempts=2) if data.get("again") else None
    try:
        step("seat", book_for_an_hour, atomic=data["atomic"], retry=retry, timeout=HOUR / 60)
    except StepFailed as failure:
        return {"failed": failure.error, "kind": type(failure.__cause__).__name__}
    return {}


def book_for_an_hour() -> None:
    note("book")
    Tag.objects.create(name="booked")
    stage.driver.pass_time(HOUR)


def catch_then(data: dict[str, Any]) -> dict[str, Any]:
    """Catches the failure of a step, and goes on with another durable call, or none."""
    caught = ""
    try:
        step("fragile", stumble, once=data.get("once", False), atomic=not data.get("once"))
    except Exception as error:
        caught = f"{type(error).__name__}: {error}"
    following = data["then"]
    if following == "wait":
        wait_for("answer")
    elif following == "sleep":
        sleep("nap", HOUR)
    elif following == "once":
        step("next", note, "next", once=True, atomic=False)
    elif following != "nothing":
        step("next", note, "next", atomic=following == "atomic")
    stumble()
    return {"caught": caught}


def clean_up_and_raise(data: dict[str, Any]) -> None:
    try:
        step("fragile", stumble)
    except Exception:
        step("clean up", note, "clean up")
        raise


SHORT = Retry(max_attempts=2, base=60, factor=1, jitter=0)


def on(name: str) -> str:
    """An effect in the database that is in force; `off` takes it back."""
    note(f"do {name}")
    Tag.objects.get_or_create(name=name)
    if name in stage.failing:
        raise ValueError(f"{name} fails")
    return name


def off(name: str) -> None:
    note(f"undo {name}")
    if f"undo {name}" in stage.failing:
        raise ConnectionError(f"undo of {name} fails")
    Tag.objects.filter(name=name).delete()


def book_trip(data: dict[str, Any]) -> dict[str, Any]:
    """A saga of three steps, the second with an outside effect; what else is in *data*."""
    try:
        with saga("trip") as undo:
            step("a", on, "a")
            undo("undo a", off, "a", retry=SHORT)
            undo("undo b", off, "b", retry=SHORT)
            step("b", on, "b", atomic=False)
            if data.get("waits"):
                wait_for("answer", timeout=24 * HOUR)
            if data.get("moment"):
                stumble()
            step("c", on, "c", retry=SHORT if data.get("budget") else None)
            undo("undo c", off, "c", retry=SHORT)
    except ValueError as error:
        if not data.get("catches"):
            raise
        return {"sorry": step("z", note, f"sorry: {error}")}
    except StepFailed as error:
        return {"sorry": step("z", note, f"sorry: {error}")}
    if data.get("after"):
        wait_for("after")
        step("last", on, "last")
    return {"done": True}


def trip_in_trip(data: dict[str, Any]) -> dict[str, Any]:
    with saga("outer") as undo:
        step("a", on, "a")
        undo("undo a", off, "a", retry=SHORT)
        with saga("inner") as inside:
            step("b", on, "b")
            inside("undo b", off, "b", retry=SHORT)
            if data.get("inside"):
                step("c", on, "c")
        step("d", on, "d")
        undo("undo d", off, "d", retry=SHORT)
        step("e", on, "e")
    return {"done": True}


def cancel_itself_and_undo(data: dict[str, Any]) -> dict[str, Any]:
    with saga("trip") as undo:
        step("a", on, "a")
        undo("undo a", off, "a")
        step("b", cancel_here, atomic=data["atomic"])
        undo("undo b", off, "b")
        note("between")
        step("c", on, "c")
    return {"done": True}


def cancel_here() -> None:
    Tag.objects.create(name="b")
    key = str(current_execution_id())
    get_workflow_engine().cancel(key, reason="enough", compensate=True)


def trip_history(data: dict[str, Any]) -> dict[str, Any]:
    """A saga in a saga with a wait; fails wherever its key is among the failing."""
    with saga("trip") as undo:
        step("one", note, "one")
        undo("undo one", _fail_if_it_should, data, retry=replace(SHORT, base=7200))
        with saga("inner") as inside:
            step("two", note, "two")
            inside("undo two", note, "undo two")
            answer = wait_for("answer", timeout=24 * HOUR)
        step("three", _fail_if_it_should, data, retry=replace(SHORT, base=7200))
        undo("undo three", note, "undo three")
        step("four", _fail_if_it_should, data, atomic=False)
    sleep("rest", HOUR)
    return {"answer": answer}


def branch_history(data: dict[str, Any]) -> dict[str, Any]:
    """Takes a branch for a failure, and another one for another."""
    branch = "confirm"
    try:
        step("seat", _fail_if_it_should, data, retry=replace(SHORT, base=7200))
    except StepFailed:
        branch = "apologise"
    try:
        step("mail", _fail_if_it_should, data)
    except ValueError:
        branch += " by post"
    answer = wait_for("answer", timeout=24 * HOUR)
    return {"answer": answer, "branch": step("end", note, branch)}  # jsonb's order of keys


def note_it(data: dict[str, Any]) -> None:
    stage.calls.append("noted")


def do_meanwhile(data: dict[str, Any]) -> None:
    stage.meanwhile()
