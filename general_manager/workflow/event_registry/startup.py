"""Collects registrations while Django starts, before the registry can be built."""

from collections.abc import Callable

from general_manager.workflow.event_registry.base import EventRegistry
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent


class StartupEventRegistry(EventRegistry):
    """Collects registrations; publishes through the real registry once that can be built.

    So a wrong setting does not keep Django from starting: `manage.py check` reports it with all
    others, and publishing raises the error.
    """

    def __init__(self, real: Callable[[], EventRegistry]) -> None:
        super().__init__()
        self._real = real
        self._successor: EventRegistry | None = None

    def hand_over(self, registry: EventRegistry) -> None:
        """Hand the collected registrations to *registry*, and forward later ones to it."""
        registry.adopt(self)
        self._successor = registry

    def add(self, registration: Registration) -> Registration:
        if self._successor is not None:
            return self._successor.add(registration)
        return super().add(registration)

    def publish(self, event: WorkflowEvent) -> bool:
        return self._real().publish(event)

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self._real().publish_with_change(event, using=using)
