"""One life of an event after another, each ended by SIGKILL a moment later than the one before.

A moment is before and after each statement, and before and after each commit. What the dead leave
is worked off as others would: leases end, a drain and a sweep come by.
"""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from django.db import connections, transaction
from django.utils import timezone

from general_manager.workflow import (
    WorkflowDefinition,
    WorkflowEvent,
    get_event_registry,
    get_workflow_engine,
    step,
    wait_for,
)
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.tick import run_inline
from tests.acceptance.production.shop.effects import tell_the_world
from tests.acceptance.production.shop.workflows import die, once
from tests.testapp.models import Tag

NAME = "lived"
ALONE = "alone"
POISONED = "poisoned"


def end_lives() -> list[str]:
    """Live until a life comes to its natural end; says at what each of the others ended."""
    ends: list[str] = []
    for number in count():
        reader, writer = os.pipe()
        was_killed = is_killed(partial(_live_until, number, writer))
        os.close(writer)
        with os.fdopen(reader) as told:
            moment = told.read()
        _work_off(number)
        if not was_killed:
            return ends
        ends.append(moment)
    raise AssertionError("unreachable")


def die_again_and_again() -> int:
    """Poison among others, in a handler and in a step, until it kills nobody; how often it did."""
    registry.publish_many(
        WorkflowEvent(str(number), "a.b", {}, event_name=POISONED) for number in range(50)
    )
    get_workflow_engine().start(POISON, correlation_id="poison")
    kills = 0
    while is_killed(lambda: list(run_inline())):
        kills += 1
        assert kills < 20
        end_leases()
    return kills


def is_killed(work: Callable[[], object]) -> bool:
    """Do *work* in a process of its own; whether it was killed in the middle."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def _live_until(number: int, writer: int) -> None:
    """The life that is killed at its moment *number*, if it has so many."""
    left = number

    def moment(what: str) -> None:
        nonlocal left
        if left == 0:
            os.write(writer, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def around(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        moment(f"before {sql}")
        result = execute(sql, *rest)
        moment(f"after {sql}")
        return result

    connection: Any = connections["default"]
    commit = connection.commit

    def around_commit() -> None:
        moment("before COMMIT")
        commit()
        moment("after COMMIT")

    connection.commit = around_commit
    with connection.execute_wrapper(around):
        _live(str(number))


def _live(name: str) -> None:
    with transaction.atomic():
        Tag.objects.create(name=f"{name} changed")
        get_event_registry().publish(WorkflowEvent(name, "a.b", {"name": name}, event_name=NAME))
    alone = f"{name} {ALONE}"  # in no transaction but its own
    get_event_registry().publish(WorkflowEvent(alone, "a.b", {}, event_name=ALONE))
    drain("default")
    for execution in WorkflowExecutionRecord.objects.filter(correlation_id=name):
        run(execution.execution_id, "default")
        get_workflow_engine().resume(execution.execution_id, "yes")
        run(execution.execution_id, "default")


def end_leases() -> None:
    """And rests, and all else that a time is set for."""
    past = timezone.now() - timedelta(seconds=1)
    WorkflowOutbox.objects.filter(available_at__isnull=False).update(available_at=past)
    WorkflowDeliveryAttempt.objects.filter(available_at__isnull=False).update(available_at=past)
    WorkflowExecutionRecord.objects.filter(wake_at__isnull=False).update(wake_at=past)


def _work_off(number: int) -> None:
    """What is left of the life, in this process, which nobody kills."""
    for _ in range(10):
        end_leases()
        turns = list(run_inline())
        waiting = WorkflowExecutionRecord.objects.filter(state="waiting")
        for execution in waiting:
            get_workflow_engine().resume(execution.execution_id, "yes")
        if not turns and not waiting:
            return
    raise AssertionError(f"What life {number} left does not come to an end")


def start(event: WorkflowEvent) -> None:
    get_workflow_engine().start(LIFE, event.payload, correlation_id=event.event_id)


def write(event: WorkflowEvent) -> None:
    Tag.objects.create(name=f"{event.event_id} written")


def write_and_fail_once(event: WorkflowEvent) -> None:
    Tag.objects.create(name=f"{event.event_id} retried")
    if once(f"failed {event.event_id}"):
        raise ValueError("the first time")


def tell(event: WorkflowEvent) -> None:
    tell_the_world(f"{event.event_id} told")


def life(input_data: dict[str, Any]) -> dict[str, Any]:
    name = input_data["name"]
    step("in the database", tag, f"{name} stepped")
    step("outside", tell_the_world, f"{name} stepped outside", atomic=False)
    answer = wait_for("answer", ask=lambda: tell_the_world(f"{name} asked"))
    step("after the answer", tag, f"{name} answered {answer}")
    return {"answer": answer}


def tag(name: str) -> None:
    Tag.objects.create(name=name)


def write_or_die(event: WorkflowEvent) -> None:
    write(event)
    if event.event_id == "7":
        die()


def poison(input_data: dict[str, Any]) -> None:
    step("before", tag, "stepped before")
    step("poison", die)


LIFE = WorkflowDefinition("life", handler=life)
POISON = WorkflowDefinition("poison", handler=poison)
registry = get_event_registry()
registry.register(NAME, handler=start)
registry.register(NAME, handler=write)
registry.register(NAME, handler=write_and_fail_once)
registry.register(NAME, handler=tell, atomic=False)
registry.register(ALONE, handler=write)
registry.register(POISONED, handler=write_or_die)
registry.register(POISONED, handler=tell, atomic=False)
