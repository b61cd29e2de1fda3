"""What the project registers, where general_manager looks for it."""

from benchmarks.handlers import insert_row, pause, see, start, start_and_say_when
from general_manager.workflow import get_event_registry

registry = get_event_registry()
registry.register("order_paid", handler=start)
registry.register("order_seen", handler=see)
registry.register("order_written", handler=insert_row)
registry.register("order_grouped", handler=insert_row, grouped=True)
registry.register("order_seen_grouped", handler=see, grouped=True)
registry.register("order_paid_grouped", handler=start, grouped=True)
registry.register("order_slow", handler=pause)
registry.register("order_timed", handler=start_and_say_when)
