"""Two other libraries for durable workflows on PostgreSQL, with the same trivial steps."""

import logging
from collections.abc import Callable
from functools import partial
from itertools import count
from threading import Event, Thread
from time import perf_counter
from typing import Any, Self
from uuid import uuid4

import psycopg
from absurd_sdk import Absurd
from absurdctl import BUNDLED_SCHEMA_SQL
from dbos import DBOS, SetWorkflowID

from benchmarks.handlers import give_result, one_step

POLL = 0.05
"""Seconds; DBOS looks at its queue once a second unless told otherwise."""

QUEUE, LEAVES = "bench", "leaves"


class Dbos:
    """DBOS in this process: called directly, or by its queue's threads."""

    def __init__(self, uri: str) -> None:
        logging.getLogger("dbos").setLevel(logging.CRITICAL)  # it logs each cancellation
        self._config: Any = {
            "name": "bench",
            "system_database_url": uri,
            "log_level": "ERROR",
        }
        step = DBOS.step()(one_step)
        self._workflow = DBOS.workflow()(_two_steps_of(step))
        self._leaf = DBOS.workflow()(leaf)
        self._fan_out = DBOS.workflow()(_function(self._join))
        self._result = DBOS.step()(give_result)
        self._long = DBOS.workflow()(_function(self._many_steps))
        self._has_come_far, self._is_cancelled = Event(), Event()
        self._replayed = 0.0

    def __enter__(self) -> Self:
        DBOS(config=self._config)
        DBOS.launch()
        self._queue = DBOS.register_queue(QUEUE, polling_interval_sec=POLL)
        return self

    def __exit__(self, *_: object) -> None:
        DBOS.destroy()

    def run(self, count: int) -> None:
        for _ in range(count):
            with SetWorkflowID(str(uuid4())):
                assert self._workflow() == 2

    def run_in_queue(self, count: int) -> None:
        handles = [self._queue.enqueue(self._workflow) for _ in range(count)]
        for handle in handles:
            assert handle.get_result(polling_interval_sec=POLL) == 2

    def fan_out(self, children: int) -> None:
        """A workflow that puts *children* into the queue, and joins them."""
        assert self._fan_out(children) == children

    def _join(self, children: int) -> int:
        handles = [self._queue.enqueue(self._leaf) for _ in range(children)]
        return sum(handle.get_result(polling_interval_sec=POLL) for handle in handles)

    def replay(self, steps: int) -> float:
        """Seconds that a recovered workflow spends on *steps* steps that it has recorded."""
        key = str(uuid4())
        self._has_come_far.clear()
        self._is_cancelled.clear()
        with SetWorkflowID(key):
            DBOS.start_workflow(self._long, steps)
        self._has_come_far.wait()
        DBOS.cancel_workflow(key)
        self._is_cancelled.set()
        while DBOS.retrieve_workflow(key).get_status().status != "CANCELLED":
            Event().wait(POLL)
        DBOS.resume_workflow(key).get_result(polling_interval_sec=POLL)
        return self._replayed

    def _many_steps(self, steps: int) -> None:
        began = perf_counter()
        for _ in range(steps):
            self._result()
        self._replayed = perf_counter() - began
        self._has_come_far.set()
        self._is_cancelled.wait()
        self._result()  # raises in the cancelled run


def _function(method: Callable[[int], Any]) -> Any:
    """DBOS takes functions only."""

    def call(number: int) -> Any:
        return method(number)

    call.__qualname__ = method.__qualname__
    return call


def leaf() -> int:
    return 1


def _two_steps_of(step: Any) -> Any:
    def two_steps() -> int:
        return int(step() + step())

    return two_steps


class AbsurdQueue:
    """Absurd in this process: spawned, then worked off in batches."""

    def __init__(self, uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(BUNDLED_SCHEMA_SQL.encode())
        self._app: Any = Absurd(uri, queue_name=QUEUE)
        self._leaves: Any = Absurd(uri, queue_name=LEAVES)
        self._app.create_queue()
        self._leaves.create_queue()
        self._completed = self._waiting = 0
        self._app.register_task(name="two_steps")(self._two_steps)
        self._app.register_task(name="fan_out")(self._fan_out)
        self._app.register_task(name="many_steps")(self._many_steps)
        self._app.register_task(name="wait_once")(self._wait_once)
        self._leaves.register_task(name="leaf")(self._leaf)

    def _two_steps(self, _: Any, context: Any) -> dict[str, Any]:
        total = context.step("first", one_step) + context.step("second", one_step)
        self._completed += 1
        return {"sum": total}

    def run(self, count: int) -> None:
        self._completed = 0
        for _ in range(count):
            self._app.spawn("two_steps", {})
        while self._completed < count:
            self._app.work_batch(batch_size=50)

    def fan_out(self, children: int) -> None:
        """A task that spawns *children* in another queue, which a thread works off, and joins."""
        self._completed = 0
        self._app.spawn("fan_out", {"children": children})
        thread = Thread(target=self._work_leaves, args=(children,))
        thread.start()
        self._app.work_batch()
        thread.join()

    def _work_leaves(self, children: int) -> None:
        while self._completed < children:
            self._leaves.work_batch(batch_size=50)

    def _leaf(self, _: Any, __: Any) -> int:
        self._completed += 1
        return 1

    def _fan_out(self, params: Any, context: Any) -> dict[str, Any]:
        spawned = context.step("spawn", partial(self._spawn, params["children"]))
        results = [context.await_task_result(one, queue_name=LEAVES) for one in spawned]
        return {"joined": len(results)}

    def _spawn(self, children: int) -> list[str]:
        return [
            str(self._app.spawn("leaf", {}, queue=LEAVES, max_attempts=1)["task_id"])
            for _ in range(children)
        ]

    def waiting(self, steps: int) -> Callable[[], None]:
        """A task that has *steps* steps behind it; each call wakes it once, to the next wait."""
        key = str(uuid4())
        self._app.spawn("many_steps", {"steps": steps, "key": key})
        self._app.work_batch()
        numbers = count()

        def wake() -> None:
            self._app.emit_event(f"{key} {next(numbers)}", {})
            self._app.work_batch()

        return wake

    def wait_once(self, number: int) -> None:
        """A task that waits for an event, and its end."""
        self._completed = 0
        self._app.spawn("wait_once", {"key": f"wait {number}"})
        self._app.work_batch()
        self._app.emit_event(f"wait {number}", {"yes": True})
        while not self._completed:
            self._app.work_batch()

    def wait_together(self, keys: list[str]) -> None:
        """A task for each key that waits for its event; all of them, in batches."""
        self._completed = 0
        for key in keys:
            self._app.spawn("wait_once", {"key": key})
        self._waiting = 0
        while self._waiting < len(keys):
            self._app.work_batch(batch_size=50)
        for key in keys:
            self._app.emit_event(key, {"yes": True})
        while self._completed < len(keys):
            self._app.work_batch(batch_size=50)

    def _wait_once(self, params: Any, context: Any) -> dict[str, Any]:
        self._waiting += 1
        answer = context.await_event(params["key"])
        self._completed += 1
        return {"answer": answer}

    def _many_steps(self, params: Any, context: Any) -> None:
        for number in range(params["steps"]):
            context.step(f"step {number}", give_result)
        for number in range(100):
            context.await_event(f"{params['key']} {number}")

    def close(self) -> None:
        self._app.close()
        self._leaves.close()
