"""Every model class tracked as it is made, as a decorator would do it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.django_suite.recording import note, unlogged


def track_everything() -> None:
    from django.db.models.base import ModelBase

    from general_manager import track_changes

    make: Any = ModelBase.__new__

    def make_tracked(meta: Any, name: str, bases: Any, attributes: Any, **options: Any) -> Any:
        model = make(meta, name, bases, attributes, **options)
        is_base = not any(isinstance(one, ModelBase) for one in bases)
        if is_base or model._meta.abstract or model.__module__ == "__fake__":
            return model
        if not model.__module__.startswith("general_manager"):
            try:
                track_changes(model)
            except TypeError as error:
                note("refused", model=model._meta.label, error=str(error))
            else:
                note("tracked", model=model._meta.label)
        return model

    base: Any = ModelBase
    base.__new__ = make_tracked
    leave_out_our_statements()


def leave_out_our_statements() -> None:
    """What we read, and the transaction of a save, is not logged; that of the tests is."""
    from general_manager.manager import rows, stored

    columns: Any = stored.Columns
    read_one, read_many = columns.read, columns.read_where

    def read(self: Any, *arguments: Any, **options: Any) -> Any:
        with unlogged():
            return read_one(self, *arguments, **options)

    def read_where(self: Any, *arguments: Any, **options: Any) -> Any:
        with unlogged():
            return iter(list(read_many(self, *arguments, **options)))

    module: Any = rows
    writing = module.writing_atomic

    @contextmanager
    def unlogged_atomic(using: str, *, savepoint: bool = True) -> Iterator[None]:
        block = writing(using, savepoint=savepoint)
        with unlogged():
            block.__enter__()
        try:
            yield
        except BaseException as error:
            with unlogged():
                if not block.__exit__(type(error), error, error.__traceback__):
                    raise
        else:
            with unlogged():
                block.__exit__(None, None, None)

    columns.read, columns.read_where = read, read_where
    module.writing_atomic = unlogged_atomic


def listen() -> None:
    """After set-up: a handler for all three events, and the log of the product."""
    from django.core.checks.registry import registry

    from general_manager import checks
    from general_manager.workflow import get_event_registry

    # Hundreds of Django's test models have one name, and some tests compare all messages.
    registry.registered_checks.discard(checks.check_names)
    vars(checks)["check_names"] = lambda **_: []  # Django's runner readies all apps once more

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note("log", logger=record.name, level=record.levelname, text=record.getMessage()[:500])

    logger = logging.getLogger("general_manager")
    logger.addHandler(Notes())
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    for name in ("created", "updated", "deleted"):
        get_event_registry().register(
            f"general_manager.manager.{name}",
            handler=lambda event: note("events", type=event.event_type),
            registration_id=f"suite.{name}",
        )
