"""Handlers of workflows with limits: what happens inside a run is set by the test, by its name."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import Any

from general_manager.workflow import continue_as_new, saga, sleep, step, wait_for

INSIDE: dict[str, Callable[[], object]] = {}
"""What happens inside the first run of the execution with that name."""
CALLS: list[str] = []
RUNNING: Counter[Any] = Counter()
MOST: Counter[Any] = Counter()
"""By key: how many run now, and how many ran at once at most."""
_lock = Lock()


def reset() -> None:
    INSIDE.clear()
    CALLS.clear()
    RUNNING.clear()
    MOST.clear()


@contextmanager
def counted(key: Any) -> Iterator[None]:
    with _lock:
        RUNNING[key] += 1
        MOST[key] = max(MOST[key], RUNNING[key])
    try:
        yield
    finally:
        with _lock:
            RUNNING[key] -= 1


def play(data: dict[str, Any]) -> dict[str, Any]:
    """A run, in which the test does something."""
    name = data["name"]
    with counted(data.get("key")):
        CALLS.append(name)
        inside = INSIDE.pop(name, None)
        if inside is not None:
            inside()
    return {"name": name}


def rest(data: dict[str, Any]) -> dict[str, Any]:
    """Plays, sleeps for an hour, and plays again."""
    play(data)
    sleep("an hour", timedelta(hours=1))
    return play({**data, "name": f"{data['name']} again"})


def ask(data: dict[str, Any]) -> dict[str, Any]:
    """Plays, waits for an answer, and plays again."""
    play(data)
    answer = wait_for("go", timeout=timedelta(hours=1))
    return play({**data, "name": f"{data['name']} with {answer}"})


def book(data: dict[str, Any]) -> dict[str, Any]:
    """Books, waits for an answer, and undoes the booking if it is cancelled."""
    with saga("booking") as undo:
        step("book", play, data)
        undo("release", play, {**data, "name": f"{data['name']} undone"})
        wait_for("go")
    return {}


def go_on(data: dict[str, Any]) -> dict[str, Any]:
    """Plays, and goes on as a new execution, twice."""
    play({**data, "name": f"{data['name']}{data['left']}"})
    if data["left"]:
        continue_as_new({**data, "left": data["left"] - 1})
    return {}
