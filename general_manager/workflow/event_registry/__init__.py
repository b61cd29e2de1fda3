"""Where events go: the registry in force, and the kinds of registry there are."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from general_manager.conf import is_configured
from general_manager.loading import BackendSlot
from general_manager.workflow.event_registry.base import EventRegistry
from general_manager.workflow.event_registry.early import EarlyEventRegistry
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
from general_manager.workflow.events import WorkflowEvent

if TYPE_CHECKING:
    from general_manager.workflow.event_registry.database import DatabaseEventRegistry

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
    "configure_event_registry",
    "configure_event_registry_from_settings",
    "get_event_registry",
    "publish_sync",
]


_once_in_force: Final[WeakSet[EventRegistry]] = WeakSet()


def _succeed(registry: EventRegistry, first: EventRegistry) -> None:
    """Registrations belong to the project, not to the registry that a setting happens to name."""
    _once_in_force.add(registry)
    if isinstance(registry, EventRegistry) and isinstance(first, EventRegistry):
        registry.adopt(first)


def _build_on_early(registry: EventRegistry) -> None:
    _once_in_force.add(registry)
    if isinstance(registry, EventRegistry):
        _early.hand_over(registry)


_slot: Final[BackendSlot[EventRegistry]] = BackendSlot(
    "WORKFLOW_EVENT_REGISTRY",
    lambda settings: settings.event_registry,
    methods=("register", "publish", "publish_sync", "publish_many", "publish_with_change"),
    succeed=_succeed,
    first=_build_on_early,
)
_early: Final = EarlyEventRegistry(_slot.get)


def get_event_registry() -> EventRegistry:
    """Return the registry that the settings name, the same one each time.

    While Django starts this never fails: what cannot be built yet collects registrations. Later
    raises `ImproperlyConfigured` that says what is wrong with `WORKFLOW_EVENT_REGISTRY`.
    """
    if apps.ready or not is_configured():
        return _slot.get()
    if not apps.apps_ready:
        return _early  # nobody's models can be imported yet
    try:
        return _slot.get()
    except ImproperlyConfigured:
        return _early


def unused_registries() -> list[EventRegistry]:
    """Those that have registrations and were never in force."""
    return [
        one
        for one in list(EventRegistry.made)
        if one is not _early and one not in _once_in_force and one.registrations()
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


def __getattr__(name: str) -> Any:
    if name == "DatabaseEventRegistry":  # stands on the tables: not before Django is set up
        return import_module(f"{__name__}.database").DatabaseEventRegistry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
