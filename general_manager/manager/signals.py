"""Sent around every change of a manager or a tracked model, inside the change's transaction.

A receiver that raises undoes the change. Keyword arguments of both: ``action`` (``"create"``,
``"update"`` or ``"delete"``), ``instance`` (the manager, or the tracked model's instance; `None`
before a create, and in a bulk update), ``using`` (the database alias), ``creator_id`` and
``history_comment`` (as the caller gave them). The sender is the manager's class, or the tracked
model.
"""

from django.dispatch import Signal

pre_data_change = Signal()
"""A change is about to be made. Further argument: ``values``, what was asked for."""

post_data_change = Signal()
"""A change was made.

Further arguments: ``change``, a `DataChange`; in bulk, ``batch``, a `Batch`.
"""
