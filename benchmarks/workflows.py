"""What the project registers, where general_manager looks for it."""

from benchmarks.handlers import see, start, start_and_say_when
from general_manager.workflow import get_event_registry

registry = get_event_registry()
registry.register("order_paid", handler=start)
registry.register("order_seen", handler=see)
registry.register("order_timed", handler=start_and_say_when)
