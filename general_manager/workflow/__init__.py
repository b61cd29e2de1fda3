"""Events, workflows and what carries the one to the other.

Read along an event: `signal_bridge` turns a manager's change into an event (`events`);
`event_registry` gives it to the handlers registered for it; a handler asks the engine
(`backend_registry`, `backends`) to start a workflow (`engine`); its handler may remember and wait
(`durable`). Every public name is here, imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from general_manager.conf import is_configured

if TYPE_CHECKING:
    from general_manager.workflow.actions import (
        Action,
        ActionCallable,
        ActionRegistry,
        action_registry,
    )
    from general_manager.workflow.actors import (
        acting_as,
    )
    from general_manager.workflow.backend_registry import (
        configure_workflow_engine,
        configure_workflow_engine_from_settings,
        get_workflow_engine,
    )
    from general_manager.workflow.backends.celery import (
        CeleryWorkflowEngine,
    )
    from general_manager.workflow.backends.local import (
        LocalWorkflowEngine,
    )
    from general_manager.workflow.durable import (
        current_execution_id,
        sleep,
        step,
        wait_for,
    )
    from general_manager.workflow.engine import (
        ACTIVE_STATES,
        TERMINAL_STATES,
        HistoryEntry,
        HistoryKind,
        Retry,
        WorkflowDefinition,
        WorkflowEngine,
        WorkflowExecution,
        WorkflowHandler,
        WorkflowState,
    )
    from general_manager.workflow.event_registry import (
        DatabaseEventRegistry,
        DeadLetterHandler,
        EventHandler,
        EventPredicate,
        EventRegistry,
        EventValidator,
        InMemoryEventRegistry,
        InvalidEvent,
        Registration,
        RetryPredicate,
        configure_event_registry,
        configure_event_registry_from_settings,
        get_event_registry,
        publish_sync,
    )
    from general_manager.workflow.events import (
        MANAGER_CREATED,
        MANAGER_DELETED,
        MANAGER_UPDATED,
        WorkflowEvent,
        manager_created_event,
        manager_deleted_event,
        manager_updated_event,
    )
    from general_manager.workflow.exceptions import (
        ActionAlreadyRegisteredError,
        ActionNotFoundError,
        EncodingError,
        ExecutionOverdue,
        HandlerNotAllowedError,
        HandlerNotImportableError,
        PermanentFailure,
        RetryAfter,
        StepInDoubt,
        StepUsageError,
        WaitTimeout,
        WorkerDied,
        WorkflowCancelledError,
        WorkflowError,
        WorkflowExecutionNotFoundError,
        WorkflowInvalidStateError,
        WorkflowWaitMismatchError,
    )
    from general_manager.workflow.links import (
        resume_url,
    )
    from general_manager.workflow.models import (
        DeliveryStatus,
        OutboxStatus,
        WorkflowDeliveryAttempt,
        WorkflowEventRecord,
        WorkflowExecutionRecord,
        WorkflowHeartbeat,
        WorkflowHistory,
        WorkflowOutbox,
        WorkflowStep,
    )
    from general_manager.workflow.signal_bridge import (
        connect_workflow_signal_bridge,
        disconnect_workflow_signal_bridge,
    )

    __all__ = [
        "ACTIVE_STATES",
        "MANAGER_CREATED",
        "MANAGER_DELETED",
        "MANAGER_UPDATED",
        "TERMINAL_STATES",
        "Action",
        "ActionAlreadyRegisteredError",
        "ActionCallable",
        "ActionNotFoundError",
        "ActionRegistry",
        "CeleryWorkflowEngine",
        "DatabaseEventRegistry",
        "DeadLetterHandler",
        "DeliveryStatus",
        "EncodingError",
        "EventHandler",
        "EventPredicate",
        "EventRegistry",
        "EventValidator",
        "ExecutionOverdue",
        "HandlerNotAllowedError",
        "HandlerNotImportableError",
        "HistoryEntry",
        "HistoryKind",
        "InMemoryEventRegistry",
        "InvalidEvent",
        "LocalWorkflowEngine",
        "OutboxStatus",
        "PermanentFailure",
        "Registration",
        "Retry",
        "RetryAfter",
        "RetryPredicate",
        "StepInDoubt",
        "StepUsageError",
        "WaitTimeout",
        "WorkerDied",
        "WorkflowCancelledError",
        "WorkflowDefinition",
        "WorkflowDeliveryAttempt",
        "WorkflowEngine",
        "WorkflowError",
        "WorkflowEvent",
        "WorkflowEventRecord",
        "WorkflowExecution",
        "WorkflowExecutionNotFoundError",
        "WorkflowExecutionRecord",
        "WorkflowHandler",
        "WorkflowHeartbeat",
        "WorkflowHistory",
        "WorkflowInvalidStateError",
        "WorkflowOutbox",
        "WorkflowState",
        "WorkflowStep",
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

_MODULES = {
    "actions": "Action ActionCallable ActionRegistry action_registry",
    "actors": "acting_as",
    "backend_registry": (
        "configure_workflow_engine configure_workflow_engine_from_settings get_workflow_engine"
    ),
    "backends.celery": "CeleryWorkflowEngine",
    "backends.local": "LocalWorkflowEngine",
    "durable": "current_execution_id sleep step wait_for",
    "engine": (
        "ACTIVE_STATES TERMINAL_STATES HistoryEntry HistoryKind Retry WorkflowDefinition "
        "WorkflowEngine WorkflowExecution WorkflowHandler WorkflowState"
    ),
    "event_registry": (
        "DatabaseEventRegistry DeadLetterHandler EventHandler EventPredicate EventRegistry "
        "EventValidator InMemoryEventRegistry InvalidEvent Registration RetryPredicate "
        "configure_event_registry configure_event_registry_from_settings get_event_registry "
        "publish_sync"
    ),
    "events": (
        "MANAGER_CREATED MANAGER_DELETED MANAGER_UPDATED WorkflowEvent manager_created_event "
        "manager_deleted_event manager_updated_event"
    ),
    "exceptions": (
        "ActionAlreadyRegisteredError ActionNotFoundError EncodingError ExecutionOverdue "
        "HandlerNotAllowedError HandlerNotImportableError PermanentFailure RetryAfter "
        "StepInDoubt StepUsageError WaitTimeout WorkerDied WorkflowCancelledError "
        "WorkflowError WorkflowExecutionNotFoundError WorkflowInvalidStateError "
        "WorkflowWaitMismatchError"
    ),
    "links": "resume_url",
    "models": (
        "WorkflowStep WorkflowHistory WorkflowHeartbeat OutboxStatus DeliveryStatus "
        "WorkflowDeliveryAttempt WorkflowEventRecord WorkflowExecutionRecord WorkflowOutbox"
    ),
    "signal_bridge": "connect_workflow_signal_bridge disconnect_workflow_signal_bridge",
}
"""Each module's public names, with blanks between them."""
_WHERE = {name: module for module, names in _MODULES.items() for name in names.split()}


_NEED_A_PROJECT = frozenset(
    ("DatabaseEventRegistry", *_MODULES["backends.celery"].split(), *_MODULES["models"].split())
)
"""What stands on tables, which need Django to be set up."""


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _public_names()
    try:
        module = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})


def _public_names() -> list[str]:
    """For ``import *``: in a script without a project, what works there."""
    without = frozenset() if is_configured() else _NEED_A_PROJECT
    return sorted(_WHERE.keys() - without)
