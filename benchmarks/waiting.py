"""Events that answer waits: how soon, and what thousands of open waits on one key cost.

Run with ``tox run -e bench`` or ``python -m benchmarks.waiting``.
"""

import os
import time
from uuid import uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
django.setup()

from django.core.management import call_command

from benchmarks.handlers import WAIT_FOR_PAYMENT
from benchmarks.measuring import seconds, show, show_times, statements
from benchmarks.site import broker, messages_kept, until, worker
from general_manager.workflow import WorkflowEvent, get_event_registry, get_workflow_engine
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowEventWait, WorkflowExecutionRecord
from general_manager.workflow.outbox.drain import drain

ANSWERS = 40
OPEN_WAITS = int(os.environ.get("OPEN_WAITS", "5000"))

executions = WorkflowExecutionRecord.objects


def publish(order_id: object) -> None:
    payload = {"order_id": order_id}
    key = "payment_received"
    event = WorkflowEvent(str(uuid4()), "bank.payment.received", payload, event_name=key)
    get_event_registry().publish(event)


def answered_after() -> float:
    """Seconds from the publication to the line behind the wait, with an idle worker."""
    order_id = str(uuid4())
    key = get_workflow_engine().start(WAIT_FOR_PAYMENT, {"order_id": order_id}).execution_id
    mine = executions.filter(execution_id=key)
    until(lambda: mine.filter(state="waiting").exists(), pause=0.02)
    time.sleep(0.1)  # the worker is idle again
    published = time.time()
    publish(order_id)
    until(lambda: mine.filter(state="completed").exists(), pause=0.005)
    output = mine.get().output_data or {}
    return float(output["answered_at"]) - published


def main() -> None:
    call_command("migrate", verbosity=0)
    with broker():
        with worker(reuse=1_000):
            answered_after()
            times = [answered_after() for _ in range(ANSWERS)]
        show_times("a wait answered by an event", times, "with an idle worker")
        with messages_kept():
            engine = get_workflow_engine()
            for number in range(OPEN_WAITS):
                run(engine.start(WAIT_FOR_PAYMENT, {"order_id": number}).execution_id, "default")
            show("open waits on one key", WorkflowEventWait.objects.count())
            publish("nobody")
            show("statements of an event nobody waits for", statements(drain))
            publish("nobody")
            show("milliseconds of it", f"{seconds(drain) * 1e3:.1f}")
            publish(4711 % OPEN_WAITS)
            show("statements of one that is waited for", statements(drain))


if __name__ == "__main__":
    main()
