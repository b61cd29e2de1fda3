"""Events, workflows and what carries the one to the other.

Read along an event: `signal_bridge` turns a manager's change into an event (`events`);
`event_registry` gives it to the handlers registered for it; a handler asks the engine
(`backend_registry`, `backends`) to start a workflow (`engine`); its handler may remember and wait
(`durable`). Every public name is here, imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from general_manager.workflow.actions import Action, ActionRegistry, action_registry
    from general_manager.workflow.actors import acting_as
    from general_manager.workflow.backend_registry import (
        configure_workflow_engine,
        configure_workflow_engine_from_settings,
        get_workflow_engine,
    )
    from general_manager.workflow.backends.local import LocalWorkflowEngine
    from general_manager.workflow.durable import current_execution_id, sleep, step, wait_for
    from general_manager.workflow.engine import (
        HistoryEntry,
        HistoryKind,
        Retry,
        WorkflowDefinition,
        WorkflowEngine,
        WorkflowExecution,
        WorkflowState,
    )
    from general_manager.workflow.event_registry import (
        EventRegistry,
        InMemoryEventRegistry,
        Registration,
        configure_event_registry,
        configure_event_registry_from_settings,
        get_event_registry,
        publish_sync,
    )
    from general_manager.workflow.events import (
        WorkflowEvent,
        manager_created_event,
        manager_deleted_event,
        manager_updated_event,
    )
    from general_manager.workflow.exceptions import (
        EncodingError,
        ExecutionOverdue,
        PermanentFailure,
        RetryAfter,
        StepInDoubt,
        StepUsageError,
        WaitTimeout,
        WorkflowCancelledError,
        WorkflowError,
        WorkflowExecutionNotFoundError,
        WorkflowInvalidStateError,
        WorkflowWaitMismatchError,
    )
    from general_manager.workflow.links import resume_url
    from general_manager.workflow.signal_bridge import (
        connect_workflow_signal_bridge,
        disconnect_workflow_signal_bridge,
    )

_MODULES = {
    "actors": ("acting_as",),
    "actions": ("Action", "ActionRegistry", "action_registry"),
    "backend_registry": (
        "configure_workflow_engine",
        "configure_workflow_engine_from_settings",
        "get_workflow_engine",
    ),
    "backends.local": ("LocalWorkflowEngine",),
    "durable": ("current_execution_id", "sleep", "step", "wait_for"),
    "engine": (
        "HistoryEntry",
        "HistoryKind",
        "Retry",
        "WorkflowDefinition",
        "WorkflowEngine",
        "WorkflowExecution",
        "WorkflowState",
    ),
    "event_registry": (
        "EventRegistry",
        "InMemoryEventRegistry",
        "Registration",
        "configure_event_registry",
        "configure_event_registry_from_settings",
        "get_event_registry",
        "publish_sync",
    ),
    "events": (
        "WorkflowEvent",
        "manager_created_event",
        "manager_deleted_event",
        "manager_updated_event",
    ),
    "exceptions": (
        "EncodingError",
        "ExecutionOverdue",
        "PermanentFailure",
        "RetryAfter",
        "StepInDoubt",
        "StepUsageError",
        "WaitTimeout",
        "WorkflowCancelledError",
        "WorkflowError",
        "WorkflowExecutionNotFoundError",
        "WorkflowInvalidStateError",
        "WorkflowWaitMismatchError",
    ),
    "links": ("resume_url",),
    "signal_bridge": (
        "connect_workflow_signal_bridge",
        "disconnect_workflow_signal_bridge",
    ),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Action",
    "ActionRegistry",
    "EncodingError",
    "EventRegistry",
    "ExecutionOverdue",
    "HistoryEntry",
    "HistoryKind",
    "InMemoryEventRegistry",
    "LocalWorkflowEngine",
    "PermanentFailure",
    "Registration",
    "Retry",
    "RetryAfter",
    "StepInDoubt",
    "StepUsageError",
    "WaitTimeout",
    "WorkflowCancelledError",
    "WorkflowDefinition",
    "WorkflowEngine",
    "WorkflowError",
    "WorkflowEvent",
    "WorkflowExecution",
    "WorkflowExecutionNotFoundError",
    "WorkflowInvalidStateError",
    "WorkflowState",
    "WorkflowWaitMismatchError",
    "acting_as",
    "action_registry",
    "configure_event_registry",
    "configure_event_registry_from_settings",
    "configure_workflow_engine",
    "configure_workflow_engine_from_settings",
    "connect_workflow_signal_bridge",
    "current_execution_id",
    "disconnect_workflow_signal_bridge",
    "get_event_registry",
    "get_workflow_engine",
    "manager_created_event",
    "manager_deleted_event",
    "manager_updated_event",
    "publish_sync",
    "resume_url",
    "sleep",
    "step",
    "wait_for",
]


def __getattr__(name: str) -> Any:
    try:
        module = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
