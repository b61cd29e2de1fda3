"""Routing looks up keys; it does not walk through registrations."""

import gc
import sys

from general_manager.workflow.event_registry import InMemoryEventRegistry
from general_manager.workflow.events import WorkflowEvent


def lines_executed(registry, event):
    """Lines of Python that one publish runs: a count, which no machine's speed can change."""
    lines = 0

    def trace(frame, kind, argument):
        nonlocal lines
        lines += kind == "line"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # what a collection finalizes would be counted too
    sys.settrace(trace)
    try:
        registry.publish(event)
    finally:
        sys.settrace(before)
        gc.enable()
    return lines


def test_other_keys_cost_a_publish_nothing():
    counts = []
    InMemoryEventRegistry().publish(WorkflowEvent("0", "a.b", {}))  # what is made once is made now
    for other_keys in (0, 500):
        registry = InMemoryEventRegistry()
        registry.register("order_paid", handler=lambda event: None)
        for number in range(other_keys):
            registry.register(f"other_{number}", handler=lambda event: None)
        event = WorkflowEvent("1", "shop.order.paid", {"a": 1}, event_name="order_paid")
        counts.append(lines_executed(registry, event))
    assert counts[0] == counts[1] > 10
