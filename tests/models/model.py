"""A protocol as the explorer sees it: rows, processes, what happens by itself, what must hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.models.world import Address, Call, Rows, View

Stored = tuple[tuple[Any, ...], Any]
"""A row, and its key."""


class Running(NamedTuple):
    """A process, the results of its statements so far, and its open transaction."""

    label: str
    call: Call
    results: tuple[Any, ...] = ()
    written: frozenset[tuple[Address, tuple[Any, ...] | None]] = frozenset()
    locks: frozenset[Address] = frozenset()


class World(View):
    """One state: committed rows, running processes, and the accidents that may still happen."""

    def __init__(self, rows: Rows, running: frozenset[Running], accidents: int) -> None:
        super().__init__({address: row for address, row in rows.items() if row is not None})
        self.running = running
        self.accidents = accidents
        self.identity = (frozenset(self.committed.items()), running, accidents)

    def runs(self, label: str) -> bool:
        """Whether a process whose label begins so is alive."""
        return any(one.label.startswith(label) for one in self.running)


class Event(NamedTuple):
    """What the world does: rows that change at once, and a process that begins."""

    text: str
    writes: tuple[Stored, ...] = ()
    """The event does not happen while one of them is locked."""
    begins: Call | None = None
    """Runs under *text* as its label, one at a time."""
    is_accident: bool = False
    ends_all: bool = False
    """A crash of the database: every process that runs ends, with its transaction."""


class Model:
    """A protocol. Its options are the ways of building it, right ones and wrong ones."""

    accidents: int = 1
    """How many kills, and events that are accidents, one run of the world may see."""

    def begin(self) -> tuple[list[Stored], dict[str, Call]]:
        """The first rows, and processes by their labels."""
        raise NotImplementedError

    def events(self, world: World) -> Iterator[Event]:
        """What may happen in *world*."""
        yield from ()

    def wrong(self, world: World) -> str | None:
        """The violation that *world* is, if it is one."""
        return None

    def is_settled(self, world: World) -> bool:
        """Whether nothing is left to do: from each state one like that must be within reach."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Case:
    """A sentence about a protocol, and the model that shows it."""

    sentence: str
    model: Model
    problem: str = ""
    """The violation to be found begins so; empty if the rules hold."""


def holds(sentence: str, model: Model) -> Case:
    """In every state the rules hold."""
    return Case(sentence, model)


def fails(sentence: str, model: Model, problem: str) -> Case:
    """Built in this way, there is a way to *problem*: so the model is seen to find it."""
    return Case(sentence, model, problem)
