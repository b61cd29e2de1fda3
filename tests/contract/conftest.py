"""Each test of this folder runs once for each engine, or registry, that is under contract."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from general_manager.workflow import WorkflowEvent, WorkflowExecution
from general_manager.workflow.signals import event_published
from tests.contract.drivers import ENGINES, REGISTRIES
from tests.testapp import plays


@pytest.fixture(autouse=True)
def _stage() -> Iterator[None]:
    plays.reset()
    yield
    plays.reset()


@pytest.fixture(params=ENGINES)
def driver(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Any]:
    """An engine of its own, in force during the test; `settle` and `pass_time` move the world."""
    driver = ENGINES[request.param]()
    plays.stage.driver = driver
    with driver.in_force():
        yield driver


@pytest.fixture
def engine(driver: Any) -> Any:
    return driver.engine


@pytest.fixture
def started(driver: Any) -> Callable[..., WorkflowExecution]:
    """Start, and let it come as far as it comes by itself."""

    def start(*arguments: Any, **options: Any) -> WorkflowExecution:
        execution: WorkflowExecution = driver.engine.start(*arguments, **options)
        driver.settle()
        now: WorkflowExecution = driver.engine.status(execution.execution_id)
        return now

    return start


@pytest.fixture(params=REGISTRIES)
def post(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Any]:
    """A registry of its own, in force during the test; `published` has what it accepted."""
    driver: Any = REGISTRIES[request.param]()
    driver.published = []

    def receive(event: WorkflowEvent, **_: Any) -> None:
        driver.published.append(event.event_id)

    event_published.connect(receive)
    try:
        with driver.in_force():
            yield driver
    finally:
        event_published.disconnect(receive)
