"""Sent around every change of a manager or a tracked model, inside the change's transaction.

A receiver that raises rolls the change back. Keyword arguments of both: ``action`` (``"create"``,
``"update"`` or ``"delete"``), ``instance`` (the manager, or the tracked model's instance; `None`
before a create, and in a bulk update), ``using`` (the database alias), ``creator_id`` and
``history_comment`` (as passed by the caller). The sender is the manager's class, or the tracked
model.
"""

from django.dispatch import Signal

pre_data_change = Signal()
"""Sent before a change. Further argument: ``values``, the requested values."""

post_data_change = Signal()
"""Sent after a change.

Further arguments: ``change``, a `DataChange`; in bulk, ``batch``, a `Batch`.
"""
