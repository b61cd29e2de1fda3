"""What observers may listen to. Control never depends on a receiver: remove them all and
each event still arrives, each workflow still runs. A receiver that raises harms nobody.
"""

from django.dispatch import Signal

event_published = Signal()
"""An event was accepted by a registry. Arguments: ``event``. Sender: the registry's class."""

event_held = Signal()
"""The in-memory registry keeps an event until the caller's transaction commits; `event_published`
follows then, or never. Arguments: ``event``. Sender: the registry's class.
"""

event_delivered = Signal()
"""A handler completed.

Arguments: ``event``, ``registration``, ``published_at`` (by the clock of what stores events).
Sender: the registry's class.
"""

event_failed = Signal()
"""A handler failed and will be tried again.

Arguments: ``event``, ``registration``, ``exception``. Sender: the registry's class.
"""

event_dead = Signal()
"""A handler failed for the last time.

Arguments: ``event``, ``registration``, ``exception``. Sender: the registry's class.
"""

execution_changed = Signal()
"""An execution entered a state; the same states in the same order from every engine.

First the state that it was started in: ``pending``, or what it ended in at once (``completed``
without a handler, ``failed`` if the handler cannot be found). Then ``running`` as each run of its
handler begins, and as that run ends ``completed``, ``failed``, ``waiting``, or ``pending`` if there
is another. ``cancelled`` ends the run under way. If a worker dies, ``pending`` follows when its
execution is recovered. What makes a waiting execution go on shows in its next ``running``.

Arguments: ``execution`` (a `WorkflowExecution` as it now is). Sender: `WorkflowExecution`.
"""
