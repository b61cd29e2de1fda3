"""What publishing in memory costs, and that other keys do not slow it down.

Run with ``tox run -e bench`` or ``python -m benchmarks.memory_registry``. Times on a shared
machine drift: the ratio, measured in one run, is what to compare.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

from general_manager.workflow.event_registry import InMemoryEventRegistry
from general_manager.workflow.events import WorkflowEvent

EVENTS = 5_000
ROUNDS = 9
PAYLOAD = {
    "manager": "Project",
    "identification": {"id": 42},
    "changes": {"status": {"old": "draft", "new": "active"}},
}


def handle(event: WorkflowEvent) -> None:
    """Nothing, so that only our own code is measured."""


def publishing(other_keys: int) -> Callable[[], float]:
    """Microseconds for one publish with one handler, beside *other_keys* registrations."""
    registry = InMemoryEventRegistry()
    for number in range(other_keys):
        registry.register(f"other_{number}", handler=handle)
    registry.register("manager_updated", handler=handle)
    published = 0

    def measure() -> float:
        nonlocal published
        events = [
            WorkflowEvent(str(published + number), "a.b", PAYLOAD, event_name="manager_updated")
            for number in range(EVENTS)
        ]
        published += EVENTS
        started = perf_counter()
        for event in events:
            registry.publish(event)
        return (perf_counter() - started) / EVENTS * 1e6

    return measure


def main() -> None:
    alone, crowded = publishing(0), publishing(10_000)
    pairs = [(alone(), crowded()) for _ in range(ROUNDS)]
    print(f"one handler, no other keys:     {median(one for one, _ in pairs):6.2f} us a publish")
    print(f"one handler, 10,000 other keys: {median(two for _, two in pairs):6.2f} us a publish")
    print(f"ratio, pair by pair:            {median(two / one for one, two in pairs):6.2f}")


if __name__ == "__main__":
    main()
