"""Fixtures for pytest, loaded by entry point: `drain_workflows`, `published_events`."""

from collections.abc import Callable, Iterator

import pytest

from general_manager.workflow.events import WorkflowEvent


@pytest.fixture
def drain_workflows() -> Callable[[], int]:
    """`general_manager.workflow.testing.drain`; call it in the test."""
    from general_manager.workflow.testing.draining import drain

    return drain


@pytest.fixture
def published_events() -> Iterator[list[WorkflowEvent]]:
    """The events published in this test, in order."""
    from general_manager.workflow.testing.published import (
        published,
    )

    with published() as events:
        yield events
