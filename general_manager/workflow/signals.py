"""Signals for observers. Nothing depends on a receiver: without any, each event still arrives
and each workflow still runs. The exception of a receiver is only logged.
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
"""A handler failed and will be retried.

Arguments: ``event``, ``registration``, ``exception``. Sender: the registry's class.
"""

event_dead = Signal()
"""A handler failed for good.

Arguments: ``event``, ``registration``, ``exception``. Sender: the registry's class.
"""

execution_changed = Signal()
"""An execution entered a state. Every engine sends the same states in the same order.

The first is the state after the start: ``pending``, or ``completed`` at once without a handler, or
``failed`` if the handler cannot be found. Each run of the handler begins with ``running`` and ends
with ``completed``, ``failed``, ``waiting``, or with ``pending`` if it will be retried.
``cancelled`` ends a run in progress. If a worker dies, ``pending`` follows when its execution is
recovered. After a wait the next state is ``running``.

Arguments: ``execution`` (a `WorkflowExecution` snapshot). Sender: `WorkflowExecution`.
"""

schedule_fired = Signal()
"""Slots of a schedule came.

Arguments: ``schedule`` (its name), ``slot`` (the last one), ``outcome``: ``started``, ``skipped``
(an execution was active) or ``missed`` (no tick ran in time); ``execution_id``, or `None`;
``count`` of slots. Sender: `Schedule`.
"""

execution_signalled = Signal()
"""A signal for an execution was accepted; a wait takes it now, later, or never.

Arguments: ``execution_id``, ``workflow_id``, ``name``. Sender: `WorkflowExecution`.
"""

saga_undone = Signal()
"""The undos of a saga were called, for a failure or for an end that was asked for.

Arguments: ``execution_id``, ``workflow_id``, ``saga`` (its name), ``left``: the names of undos that
failed for good or are registered no more; empty if everything is undone. Sender:
`WorkflowExecution`.
"""
