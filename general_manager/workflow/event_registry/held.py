"""Events that wait in memory for a commit, and events that come together.

Handlers may publish for the same ordering keys. So of all events that come with one commit or one
call, each has its place in its lanes before the first handler runs, as in the tables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

from django.db import connections, transaction

from general_manager.workflow.event_registry.lanes import Lanes
from general_manager.workflow.events import WorkflowEvent


class HeldEvent:
    """An on-commit hook that publishes an event, with those of its commit that are left.

    A test case never commits, so the test kit finds these hooks by class and delivers their events.
    """

    def __init__(self, event: WorkflowEvent, mates: "Mates", deliver: "DeliverAll") -> None:
        self.event = event
        self.is_delivered = False
        self._mates = mates
        self._deliver = deliver
        self.__qualname__ = type(self).__qualname__  # Django reads it if a robust hook fails

    def __call__(self) -> None:
        if self.is_delivered:
            return
        together = self._mates.from_there_on(self)
        for one in together:
            one.is_delivered = True
        self._deliver([one.event for one in together])


DeliverAll = Callable[[Sequence[WorkflowEvent]], int]


class Mates:
    """The hooks of one connection in their order. Only Django holds them, and a rollback of the
    transaction or of a savepoint drops them, so those that are there commit together.
    """

    def __init__(self) -> None:
        self._hooks: list[ref[HeldEvent]] = []

    def add(self, hook: HeldEvent) -> None:
        while self._hooks and self._hooks[-1]() is None:
            self._hooks.pop()  # rolled back
        self._hooks.append(ref(hook))

    def from_there_on(self, first: HeldEvent) -> list[HeldEvent]:
        hooks = [hook for one in self._hooks if (hook := one()) is not None]
        at = hooks.index(first)
        self._hooks = [ref(hook) for hook in hooks[:at] if not hook.is_delivered]
        return [hook for hook in hooks[at:] if not hook.is_delivered]


class HeldEvents:
    """The events of one registry that wait for commits."""

    def __init__(self, deliver: DeliverAll) -> None:
        self._deliver = deliver
        self._mates: WeakKeyDictionary[Any, Mates] = WeakKeyDictionary()

    def hold(self, event: WorkflowEvent, using: str) -> None:
        mates = self._mates.setdefault(connections[using], Mates())
        hook = HeldEvent(event, mates, self._deliver)
        mates.add(hook)
        transaction.on_commit(hook, using=using, robust=True)


@dataclass(eq=False, slots=True)
class Delivery:
    """One event for one handler, in a *lane* if it is in order."""

    deliver: Callable[[], bool]
    lane: str | None = None
    is_done: bool = False

    def __call__(self) -> bool:
        self.is_done = self.deliver()
        return self.is_done


@dataclass(eq=False, slots=True)
class Arrival:
    """An event that comes, with its deliveries."""

    event: WorkflowEvent
    arrive: Callable[[], object] = lambda: None
    """Called once, before the first delivery."""
    deliveries: list[Delivery] = field(default_factory=list)
    has_arrived: bool = False

    def begin(self) -> None:
        if not self.has_arrived:
            self.has_arrived = True
            self.arrive()

    def add(self, deliver: Callable[[], bool], lane: str | None, lanes: Lanes) -> None:
        """Behind what waits in the *lane*, which another event may have emptied first."""

        def begun() -> bool:
            self.begin()
            return deliver()

        delivery = Delivery(begun, lane)
        self.deliveries.append(delivery)
        if lane is not None:
            lanes.add(lane, delivery)

    def perform(self, lanes: Lanes) -> bool:
        """Deliver what is not delivered; whether a handler has completed."""
        self.begin()
        for one in self.deliveries:
            if one.lane is None:
                one()
            else:
                lanes.empty(one.lane)
        return any(one.is_done for one in self.deliveries)
