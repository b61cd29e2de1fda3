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
        Action as Action,
    )
    from general_manager.workflow.actions import (
        ActionCallable as ActionCallable,
    )
    from general_manager.workflow.actions import (
        ActionRegistry as ActionRegistry,
    )
    from general_manager.workflow.actions import (
        action_registry as action_registry,
    )
    from general_manager.workflow.actors import (
        acting_as as acting_as,
    )
    from general_manager.workflow.backend_registry import (
        configure_workflow_engine as configure_workflow_engine,
    )
    from general_manager.workflow.backend_registry import (
        configure_workflow_engine_from_settings as configure_workflow_engine_from_settings,
    )
    from general_manager.workflow.backend_registry import (
        get_workflow_engine as get_workflow_engine,
    )
    from general_manager.workflow.backends.celery import (
        CeleryWorkflowEngine as CeleryWorkflowEngine,
    )
    from general_manager.workflow.backends.local import (
        LocalWorkflowEngine as LocalWorkflowEngine,
    )
    from general_manager.workflow.durable import (
        current_execution_id as current_execution_id,
    )
    from general_manager.workflow.durable import (
        sleep as sleep,
    )
    from general_manager.workflow.durable import (
        step as step,
    )
    from general_manager.workflow.durable import (
        wait_for as wait_for,
    )
    from general_manager.workflow.engine import (
        ACTIVE_STATES as ACTIVE_STATES,
    )
    from general_manager.workflow.engine import (
        TERMINAL_STATES as TERMINAL_STATES,
    )
    from general_manager.workflow.engine import (
        HistoryEntry as HistoryEntry,
    )
    from general_manager.workflow.engine import (
        HistoryKind as HistoryKind,
    )
    from general_manager.workflow.engine import (
        Retry as Retry,
    )
    from general_manager.workflow.engine import (
        WorkflowDefinition as WorkflowDefinition,
    )
    from general_manager.workflow.engine import (
        WorkflowEngine as WorkflowEngine,
    )
    from general_manager.workflow.engine import (
        WorkflowExecution as WorkflowExecution,
    )
    from general_manager.workflow.engine import (
        WorkflowHandler as WorkflowHandler,
    )
    from general_manager.workflow.engine import (
        WorkflowState as WorkflowState,
    )
    from general_manager.workflow.event_registry import (
        DatabaseEventRegistry as DatabaseEventRegistry,
    )
    from general_manager.workflow.event_registry import (
        DeadLetterHandler as DeadLetterHandler,
    )
    from general_manager.workflow.event_registry import (
        EventHandler as EventHandler,
    )
    from general_manager.workflow.event_registry import (
        EventPredicate as EventPredicate,
    )
    from general_manager.workflow.event_registry import (
        EventRegistry as EventRegistry,
    )
    from general_manager.workflow.event_registry import (
        EventValidator as EventValidator,
    )
    from general_manager.workflow.event_registry import (
        InMemoryEventRegistry as InMemoryEventRegistry,
    )
    from general_manager.workflow.event_registry import (
        InvalidEvent as InvalidEvent,
    )
    from general_manager.workflow.event_registry import (
        Registration as Registration,
    )
    from general_manager.workflow.event_registry import (
        RetryPredicate as RetryPredicate,
    )
    from general_manager.workflow.event_registry import (
        configure_event_registry as configure_event_registry,
    )
    from general_manager.workflow.event_registry import (
        configure_event_registry_from_settings as configure_event_registry_from_settings,
    )
    from general_manager.workflow.event_registry import (
        get_event_registry as get_event_registry,
    )
    from general_manager.workflow.event_registry import (
        publish_sync as publish_sync,
    )
    from general_manager.workflow.events import (
        MANAGER_CREATED as MANAGER_CREATED,
    )
    from general_manager.workflow.events import (
        MANAGER_DELETED as MANAGER_DELETED,
    )
    from general_manager.workflow.events import (
        MANAGER_UPDATED as MANAGER_UPDATED,
    )
    from general_manager.workflow.events import (
        WorkflowEvent as WorkflowEvent,
    )
    from general_manager.workflow.events import (
        manager_created_event as manager_created_event,
    )
    from general_manager.workflow.events import (
        manager_deleted_event as manager_deleted_event,
    )
    from general_manager.workflow.events import (
        manager_updated_event as manager_updated_event,
    )
    from general_manager.workflow.exceptions import (
        ActionAlreadyRegisteredError as ActionAlreadyRegisteredError,
    )
    from general_manager.workflow.exceptions import (
        ActionNotFoundError as ActionNotFoundError,
    )
    from general_manager.workflow.exceptions import (
        EncodingError as EncodingError,
    )
    from general_manager.workflow.exceptions import (
        ExecutionOverdue as ExecutionOverdue,
    )
    from general_manager.workflow.exceptions import (
        HandlerNotAllowedError as HandlerNotAllowedError,
    )
    from general_manager.workflow.exceptions import (
        HandlerNotImportableError as HandlerNotImportableError,
    )
    from general_manager.workflow.exceptions import (
        PermanentFailure as PermanentFailure,
    )
    from general_manager.workflow.exceptions import (
        RetryAfter as RetryAfter,
    )
    from general_manager.workflow.exceptions import (
        StepInDoubt as StepInDoubt,
    )
    from general_manager.workflow.exceptions import (
        StepUsageError as StepUsageError,
    )
    from general_manager.workflow.exceptions import (
        WaitTimeout as WaitTimeout,
    )
    from general_manager.workflow.exceptions import (
        WorkerDied as WorkerDied,
    )
    from general_manager.workflow.exceptions import (
        WorkflowCancelledError as WorkflowCancelledError,
    )
    from general_manager.workflow.exceptions import (
        WorkflowError as WorkflowError,
    )
    from general_manager.workflow.exceptions import (
        WorkflowExecutionNotFoundError as WorkflowExecutionNotFoundError,
    )
    from general_manager.workflow.exceptions import (
        WorkflowInvalidStateError as WorkflowInvalidStateError,
    )
    from general_manager.workflow.exceptions import (
        WorkflowWaitMismatchError as WorkflowWaitMismatchError,
    )
    from general_manager.workflow.links import (
        resume_url as resume_url,
    )
    from general_manager.workflow.models import (
        DeliveryStatus as DeliveryStatus,
    )
    from general_manager.workflow.models import (
        OutboxStatus as OutboxStatus,
    )
    from general_manager.workflow.models import (
        WorkflowDeliveryAttempt as WorkflowDeliveryAttempt,
    )
    from general_manager.workflow.models import (
        WorkflowEventRecord as WorkflowEventRecord,
    )
    from general_manager.workflow.models import (
        WorkflowExecutionRecord as WorkflowExecutionRecord,
    )
    from general_manager.workflow.models import (
        WorkflowHeartbeat as WorkflowHeartbeat,
    )
    from general_manager.workflow.models import (
        WorkflowHistory as WorkflowHistory,
    )
    from general_manager.workflow.models import (
        WorkflowOutbox as WorkflowOutbox,
    )
    from general_manager.workflow.models import (
        WorkflowStep as WorkflowStep,
    )
    from general_manager.workflow.signal_bridge import (
        connect_workflow_signal_bridge as connect_workflow_signal_bridge,
    )
    from general_manager.workflow.signal_bridge import (
        disconnect_workflow_signal_bridge as disconnect_workflow_signal_bridge,
    )


_MODULES = {
    "actions": (
        "Action",
        "ActionCallable",
        "ActionRegistry",
        "action_registry",
    ),
    "actors": ("acting_as",),
    "backend_registry": (
        "configure_workflow_engine",
        "configure_workflow_engine_from_settings",
        "get_workflow_engine",
    ),
    "backends.celery": ("CeleryWorkflowEngine",),
    "backends.local": ("LocalWorkflowEngine",),
    "durable": (
        "current_execution_id",
        "sleep",
        "step",
        "wait_for",
    ),
    "engine": (
        "ACTIVE_STATES",
        "TERMINAL_STATES",
        "HistoryEntry",
        "HistoryKind",
        "Retry",
        "WorkflowDefinition",
        "WorkflowEngine",
        "WorkflowExecution",
        "WorkflowHandler",
        "WorkflowState",
    ),
    "event_registry": (
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
        "configure_event_registry",
        "configure_event_registry_from_settings",
        "get_event_registry",
        "publish_sync",
    ),
    "events": (
        "MANAGER_CREATED",
        "MANAGER_DELETED",
        "MANAGER_UPDATED",
        "WorkflowEvent",
        "manager_created_event",
        "manager_deleted_event",
        "manager_updated_event",
    ),
    "exceptions": (
        "ActionAlreadyRegisteredError",
        "ActionNotFoundError",
        "EncodingError",
        "ExecutionOverdue",
        "HandlerNotAllowedError",
        "HandlerNotImportableError",
        "PermanentFailure",
        "RetryAfter",
        "StepInDoubt",
        "StepUsageError",
        "WaitTimeout",
        "WorkerDied",
        "WorkflowCancelledError",
        "WorkflowError",
        "WorkflowExecutionNotFoundError",
        "WorkflowInvalidStateError",
        "WorkflowWaitMismatchError",
    ),
    "links": ("resume_url",),
    "models": (
        "WorkflowStep",
        "WorkflowHistory",
        "WorkflowHeartbeat",
        "OutboxStatus",
        "DeliveryStatus",
        "WorkflowDeliveryAttempt",
        "WorkflowEventRecord",
        "WorkflowExecutionRecord",
        "WorkflowOutbox",
    ),
    "signal_bridge": (
        "connect_workflow_signal_bridge",
        "disconnect_workflow_signal_bridge",
    ),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


_NEED_A_PROJECT = frozenset(
    ("DatabaseEventRegistry", *_MODULES["backends.celery"], *_MODULES["models"])
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
