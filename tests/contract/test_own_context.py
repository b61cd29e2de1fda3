"""What a handler activates, or sets in context variables, is not there for the next one."""

from contextvars import ContextVar
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone, translation

from general_manager.workflow import InMemoryEventRegistry, WorkflowDefinition, WorkflowEvent
from tests.testapp import plays

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

BERLIN = ZoneInfo("Europe/Berlin")
who: ContextVar[str] = ContextVar("who", default="nobody")


def state() -> tuple[Any, ...]:
    zone = timezone.get_current_timezone()
    return translation.get_language(), str(zone), who.get()


def change_everything(_: Any = None) -> None:
    plays.stage.seen.append(state())
    translation.activate("de")
    timezone.activate(BERLIN)
    who.set("the last one")
    assert state() == ("de", "Europe/Berlin", "the last one")


async def change_everything_async(_: Any = None) -> None:
    change_everything()


def is_wanted(event: WorkflowEvent) -> bool:
    change_everything()
    return True


def refuses(event: WorkflowEvent) -> None:
    change_everything()
    raise ValueError("no")


@pytest.fixture(autouse=True)
def _as_before():
    before = state()
    yield
    assert state() == before


def seen_to_be_alike(times: int) -> None:
    seen = plays.stage.seen
    assert len(seen) >= times
    assert set(seen) == {seen[0]}
    assert seen[0][2] == "nobody"


@pytest.mark.parametrize("handler", [change_everything, change_everything_async])
def test_what_a_handler_activates_ends_with_it(post, handler):
    for number in range(2):
        post.registry.register(
            "shop.paid", handler=handler, when=is_wanted, validator=change_everything,
            registration_id=f"context {number}",
        )  # fmt: skip
    post.registry.publish_many([WorkflowEvent(str(n), "shop.paid", {}) for n in range(2)])
    post.settle()
    seen_to_be_alike(12)


def test_what_a_failing_handler_and_its_hooks_activate_ends_with_them(post):
    post.registry.register(
        "shop.paid",
        handler=refuses,
        retry_on=lambda error: change_everything(),
        dead_letter_handler=lambda event, error: change_everything(),
        retries=1,
        registration_id="context fails",
    )
    post.registry.publish(WorkflowEvent("1", "shop.paid", {}))
    post.settle()
    seen_to_be_alike(3)


@pytest.mark.parametrize("handler", [change_everything, change_everything_async])
def test_what_a_run_activates_ends_with_it(driver, started, handler):
    for number in range(2):
        started(WorkflowDefinition("w", handler=handler), correlation_id=str(number))
    seen_to_be_alike(2)


def test_a_handler_sees_what_its_caller_activated(local_post):
    with translation.override("fr"), timezone.override(UTC):
        local_post.publish(WorkflowEvent("1", "shop.paid", {}))
    assert plays.stage.seen[0][:2] == ("fr", "UTC")


@pytest.fixture
def local_post(transactional_db):
    registry = InMemoryEventRegistry()
    registry.register("shop.paid", handler=change_everything)
    return registry
