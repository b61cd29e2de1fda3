"""The current event registry, and the registry classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from general_manager.conf import is_configured
from general_manager.loading import BackendSlot
from general_manager.workflow.event_registry.base import EventRegistry
from general_manager.workflow.event_registry.memory import InMemoryEventRegistry
from general_manager.workflow.event_registry.registration import (
    DeadLetterHandler,
    EventHandler,
    EventPredicate,
    EventValidator,
    InvalidEvent,
    Registration,
    RetryPredicate,
)
from general_manager.workflow.event_registry.startup import StartupEventRegistry
from general_manager.workflow.events import WorkflowEvent

if TYPE_CHECKING:
    from general_manager.workflow.outbox.registry import DatabaseEventRegistry

__all__ = [
    "DatabaseEventRegistry",
    "DeadLetterHandler",
    "EventHandler",
    "EventPredicate",
    "EventRegistry",
    "EventValidator",
    "InMemoryEventRegistry",
    "InvalidEvent",
    "Registration",
    "RetryPredicate",
    "WorkflowEvent",
    "apublish_sync",
    "configure_event_registry",
    "configure_event_registry_from_settings",
    "get_event_registry",
    "publish_sync",
]


_once_in_force: Final[WeakSet[EventRegistry]] = WeakSet()


def _succeed(registry: EventRegistry, first: EventRegistry) -> None:
    """Registrations belong to the project, so a new registry takes them over."""
    _once_in_force.add(registry)
    if isinstance(registry, EventRegistry) and isinstance(first, EventRegistry):
        registry.adopt(first)


def _build_on_startup(registry: EventRegistry) -> None:
    _once_in_force.add(registry)
    if isinstance(registry, EventRegistry):
        _startup.hand_over(registry)


_slot: Final[BackendSlot[EventRegistry]] = BackendSlot(
    "WORKFLOW_EVENT_REGISTRY",
    lambda settings: settings.event_registry,
    methods=("register", "publish", "publish_sync", "publish_many", "publish_with_change"),
    succeed=_succeed,
    first=_build_on_startup,
)
_startup: Final = StartupEventRegistry(_slot.get)


def get_event_registry() -> EventRegistry:
    """Return the registry that the settings name; always the same instance.

    Never fails while Django starts: a temporary registry then collects registrations. Later raises
    `ImproperlyConfigured` if `WORKFLOW_EVENT_REGISTRY` is wrong.
    """
    if apps.ready or not is_configured():
        return _slot.get()
    if not apps.apps_ready:
        return _startup  # no models can be imported yet
    try:
        return _slot.get()
    except ImproperlyConfigured:
        return _startup


def unused_registries() -> list[EventRegistry]:
    """Registries that have registrations but were never in use."""
    return [
        one
        for one in list(EventRegistry.made)
        if one is not _startup and one not in _once_in_force and one.registrations()
    ]


def configure_event_registry(registry: EventRegistry | None) -> None:
    """Use *registry* from now on; `None` goes back to the setting. For tests and scripts."""
    _slot.configure(registry)
    if registry is not None:
        _once_in_force.add(registry)


def configure_event_registry_from_settings(settings: object) -> EventRegistry:
    """Use the registry that *settings*, an object with settings as attributes, describes."""
    registry = _slot.configure_from(settings)
    _once_in_force.add(registry)
    return registry


def publish_sync(event: WorkflowEvent) -> bool:
    """Publish *event* and deliver it in this process, whatever the mode."""
    return get_event_registry().publish_sync(event)


async def apublish_sync(event: WorkflowEvent) -> bool:
    """`publish_sync`, from async code."""
    return await get_event_registry().apublish_sync(event)


def __getattr__(name: str) -> Any:
    if name == "DatabaseEventRegistry":  # imports models: not before Django is set up
        return import_module("general_manager.workflow.outbox.registry").DatabaseEventRegistry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
