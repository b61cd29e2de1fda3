"""Limits in memory, with threads: never more runs than slots, and nobody is left in line."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Lock
from time import sleep as pause

import pytest

from general_manager.workflow import Limit, Rate, Retry, WorkflowDefinition, step

MINUTE = timedelta(minutes=1)


class Gauge:
    def __init__(self):
        self.lock = Lock()
        self.running = Counter()
        self.most = Counter()

    def run(self, data):
        with self.lock:
            self.running[data["key"]] += 1
            self.most[data["key"]] = max(self.most[data["key"]], self.running[data["key"]])
        pause(0.001)
        with self.lock:
            self.running[data["key"]] -= 1


@pytest.mark.parametrize("most", [1, 3])
def test_l1_threads_never_exceed_a_limit_and_leave_nobody_in_line(engine, most):
    gauge, failed = Gauge(), set()

    def handler(data):
        gauge.run(data)
        if data["n"] % 5 == 0 and data["n"] not in failed:
            failed.add(data["n"])
            raise ValueError("once")
        step("again", gauge.run, data)

    flow = WorkflowDefinition(
        "w", handler=handler, limit=Limit(most, key="key"), retry=Retry(base=0)
    )
    barrier = Barrier(8)

    def start(thread):
        barrier.wait()
        for n in range(10):
            key = engine.start(flow, {"key": n % 2, "n": thread * 10 + n}).execution_id
            if n % 4 == 3:
                try:
                    engine.cancel(key)
                except Exception:
                    assert engine.status(key).state == "completed"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))
    while engine.run_due():
        pass
    assert {one.state for one in engine.executions()} <= {"completed", "cancelled"}
    assert len(list(engine.executions())) == 80
    assert all(count <= most for count in gauge.most.values())
    assert engine._memory.limits._slots == {}


def test_a_long_line_costs_each_end_one_step_only(engine):
    order = []
    inner = WorkflowDefinition("w", handler=lambda data: order.append(data["n"]), limit=Limit(1))

    def fill(data):
        for n in range(2_000):
            engine.start(inner, {"n": n})

    engine.start(WorkflowDefinition("w", handler=fill, limit=Limit(1)), {})
    assert order == list(range(2_000))


def test_a_handler_that_ends_the_process_gives_its_slot_back(engine):
    def leave(data):
        raise SystemExit

    limit = Limit(1)
    with pytest.raises(SystemExit):
        engine.start(WorkflowDefinition("w", handler=leave, limit=limit), {})
    found = engine.start(WorkflowDefinition("w", handler=lambda data: {}, limit=limit), {})
    assert found.state == "completed"


def test_a_clock_that_is_set_back_does_not_stop_the_line(engine, clock):
    flow = WorkflowDefinition("w", handler=lambda data: {}, rate=Rate(1, per=MINUTE))
    engine.start(flow, {})
    clock.advance(hours=-5)
    waiting = engine.start(flow, {}).execution_id
    assert engine.status(waiting).state == "pending"
    clock.advance(seconds=61)
    assert engine.status(waiting).state == "completed"


def test_the_timer_of_a_rate_is_one_of_the_engine_s(engine):
    flow = WorkflowDefinition("w", handler=lambda data: {}, rate=Rate(1, per=MINUTE))
    engine.start(flow, {})
    assert engine.timers() == []
    waiting = [engine.start(flow, {}).execution_id for _ in range(3)]
    assert engine.timers() == [MINUTE]
    for key in waiting:
        engine.move_timers(MINUTE)
        assert engine.run_due() == 1
        assert engine.status(key).state == "completed"
    assert engine.timers() == []
