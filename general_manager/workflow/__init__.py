"""Events, workflows, and the machinery between them.

The path of an event: `signal_bridge` turns a manager's change into an event (`events`);
`event_registry` delivers it to the registered handlers; a handler asks the engine
(`backend_registry`, `backends`) to start a workflow (`engine`); the workflow's handler may record
steps and wait (`durable`). Every public name is available here and imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from general_manager.conf import is_configured
from general_manager.workflow.public_names import NEED_A_PROJECT, WHERE_PUBLIC

if TYPE_CHECKING:
    from general_manager.workflow.actions import (
        Action,
        ActionCallable,
        ActionRegistry,
        action_registry,
    )
    from general_manager.workflow.backend_registry import (
        configure_workflow_engine,
        configure_workflow_engine_from_settings,
        get_workflow_engine,
    )
    from general_manager.workflow.backends.celery import CeleryWorkflowEngine
    from general_manager.workflow.backends.local import LocalWorkflowEngine
    from general_manager.workflow.core.actors import acting_as
    from general_manager.workflow.durable import (
        child_result,
        continue_as_new,
        current_execution_id,
        gather,
        report,
        saga,
        sleep,
        step,
        wait_for,
    )  # fmt: skip
    from general_manager.workflow.durable.answers.calls import first_of, wait_for_event, wait_until
    from general_manager.workflow.durable.answers.coroutines import (
        afirst_of,
        await_for_event,
        await_until,
    )  # fmt: skip
    from general_manager.workflow.durable.answers.sources import answer, on_event, on_signal
    from general_manager.workflow.durable.children.specs import Child, child
    from general_manager.workflow.durable.coroutines import (
        achild_result,
        agather,
        areport,
        asleep,
        astep,
        await_for,
    )  # fmt: skip
    from general_manager.workflow.durable.ending import DeadlinePassed
    from general_manager.workflow.durable.errors import (
        ChildCycle,
        ChildFailed,
        CompensationIncomplete,
        StepFailed,
        StepTimeout,
        WorkflowCancelRequested,
    )  # fmt: skip
    from general_manager.workflow.durable.signals import SignalSnapshot, SignalStatus
    from general_manager.workflow.engine import (
        ACTIVE_STATES,
        TERMINAL_STATES,
        ChildCount,
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
        apublish_sync,
        configure_event_registry,
        configure_event_registry_from_settings,
        get_event_registry,
        publish_sync,
    )
    from general_manager.workflow.events import (
        EXECUTION_CANCELLED,
        EXECUTION_COMPLETED,
        EXECUTION_FAILED,
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
    from general_manager.workflow.executions.query import ExecutionQuery
    from general_manager.workflow.executions.results import (
        CannotWaitError,
        ResultTimeout,
        WorkflowFailedError,
    )
    from general_manager.workflow.history import HistoryEntry, HistoryKind
    from general_manager.workflow.models import (
        DeliveryStatus,
        OutboxStatus,
        WorkflowDeliveryAttempt,
        WorkflowEventRecord,
        WorkflowEventWait,
        WorkflowExecutionRecord,
        WorkflowHeartbeat,
        WorkflowHistory,
        WorkflowLane,
        WorkflowOutbox,
        WorkflowSchedule,
        WorkflowSignal,
        WorkflowStep,
        WorkflowTakenEvent,
    )
    from general_manager.workflow.resume_links import resume_url
    from general_manager.workflow.schedules import (
        Schedule,
        ScheduleNotFoundError,
        ScheduleRefusedError,
        schedule,
    )
    from general_manager.workflow.scheduling.verbs import (
        pause_schedule,
        run_schedule,
        unpause_schedule,
    )
    from general_manager.workflow.signal_bridge import (
        connect_workflow_signal_bridge,
        disconnect_workflow_signal_bridge,
    )

    __all__ = [
        "ACTIVE_STATES", "EXECUTION_CANCELLED", "EXECUTION_COMPLETED", "EXECUTION_FAILED",
        "MANAGER_CREATED", "MANAGER_DELETED", "MANAGER_UPDATED", "TERMINAL_STATES", "Action",
        "ActionAlreadyRegisteredError", "ActionCallable", "ActionNotFoundError", "ActionRegistry",
        "CannotWaitError", "CeleryWorkflowEngine", "Child", "ChildCount", "ChildCycle",
        "ChildFailed", "CompensationIncomplete", "DatabaseEventRegistry", "DeadLetterHandler",
        "DeadlinePassed", "DeliveryStatus", "EncodingError", "EventHandler", "EventPredicate",
        "EventRegistry", "EventValidator", "ExecutionOverdue", "ExecutionQuery",
        "HandlerNotAllowedError", "HandlerNotImportableError", "HistoryEntry", "HistoryKind",
        "InMemoryEventRegistry", "InvalidEvent", "LocalWorkflowEngine", "OutboxStatus",
        "PermanentFailure", "Registration", "ResultTimeout", "Retry", "RetryAfter",
        "RetryPredicate", "Schedule", "ScheduleNotFoundError", "ScheduleRefusedError",
        "SignalSnapshot", "SignalStatus", "StepFailed", "StepInDoubt", "StepTimeout",
        "StepUsageError", "WaitTimeout", "WorkerDied", "WorkflowCancelRequested",
        "WorkflowCancelledError", "WorkflowDefinition", "WorkflowDeliveryAttempt",
        "WorkflowEngine", "WorkflowError", "WorkflowEvent", "WorkflowEventRecord",
        "WorkflowEventWait", "WorkflowExecution", "WorkflowExecutionNotFoundError",
        "WorkflowExecutionRecord", "WorkflowFailedError", "WorkflowHandler", "WorkflowHeartbeat",
        "WorkflowHistory", "WorkflowInvalidStateError", "WorkflowLane", "WorkflowOutbox",
        "WorkflowSchedule", "WorkflowSignal", "WorkflowState", "WorkflowStep",
        "WorkflowTakenEvent", "WorkflowWaitMismatchError", "achild_result", "acting_as",
        "action_registry", "afirst_of", "agather", "answer", "apublish_sync", "areport", "asleep",
        "astep", "await_for", "await_for_event", "await_until", "child", "child_result",
        "configure_event_registry", "configure_event_registry_from_settings",
        "configure_workflow_engine", "configure_workflow_engine_from_settings",
        "connect_workflow_signal_bridge", "continue_as_new", "current_execution_id",
        "disconnect_workflow_signal_bridge", "first_of", "gather", "get_event_registry",
        "get_workflow_engine", "manager_created_event", "manager_deleted_event",
        "manager_updated_event", "on_event", "on_signal", "pause_schedule", "publish_sync",
        "report", "resume_url", "run_schedule", "saga", "schedule", "sleep", "step",
        "unpause_schedule", "wait_for", "wait_for_event", "wait_until",
    ]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _public_names()
    try:
        module = WHERE_PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *WHERE_PUBLIC})


def _public_names() -> list[str]:
    """For ``import *``: in a script without a project, only the names that work there."""
    without = frozenset() if is_configured() else NEED_A_PROJECT
    return sorted(WHERE_PUBLIC.keys() - without)
