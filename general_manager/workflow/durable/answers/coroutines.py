"""Waits for events and for the first of several things, for ``async def`` handlers."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

from django.db.models import Model

from general_manager.workflow.durable.answers.calls import first_of, wait_for_event, wait_until
from general_manager.workflow.durable.answers.sources import Source
from general_manager.workflow.durable.under_way import in_its_thread

__all__ = ["afirst_of", "await_for_event", "await_until"]


async def await_for_event(
    name: str,
    event: str,
    *,
    match: Mapping[str, Any] | None = None,
    since: datetime | None = None,
    timeout: timedelta | None = None,
) -> Any:
    """`wait_for_event` for a coroutine."""
    options: dict[str, Any] = {"match": match, "since": since, "timeout": timeout}
    return await in_its_thread(name, partial(wait_for_event, name, event, **options))


async def afirst_of(
    name: str, *, timeout: timedelta | None = None, **sources: Source
) -> tuple[str, Any]:
    """`first_of` for a coroutine; what asks may be async or not."""
    found = await in_its_thread(name, partial(first_of, name, timeout=timeout, **sources))
    return cast(tuple[str, Any], found)


async def await_until(
    name: str,
    model: type[Model],
    key: object,
    state: Mapping[str, Any],
    *,
    timeout: timedelta | None = None,
) -> Any:
    """`wait_until` for a coroutine."""
    call = partial(wait_until, name, model, key, state, timeout=timeout)
    return await in_its_thread(name, call)
