"""Two other libraries for durable workflows on PostgreSQL, with the same two trivial steps."""

import logging
from typing import Any, Self
from uuid import uuid4

import psycopg
from absurd_sdk import Absurd
from absurdctl import BUNDLED_SCHEMA_SQL
from dbos import DBOS, SetWorkflowID

from benchmarks.handlers import one_step

POLL = 0.05
"""Seconds; DBOS looks at its queue once a second unless told otherwise."""

QUEUE = "bench"


class Dbos:
    """DBOS in this process: called directly, or by its queue's threads."""

    def __init__(self, uri: str) -> None:
        logging.getLogger("dbos").setLevel(logging.ERROR)
        self._config: Any = {
            "name": "bench",
            "system_database_url": uri,
            "log_level": "ERROR",
        }
        step = DBOS.step()(one_step)
        self._workflow = DBOS.workflow()(_two_steps_of(step))

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
        self._app.create_queue()
        self._completed = 0
        self._app.register_task(name="two_steps")(self._two_steps)

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

    def close(self) -> None:
        self._app.close()
