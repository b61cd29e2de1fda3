"""Which module has which public name: the package imports a name on its first use."""

from typing import Final

_MODULES: Final = {
    "actions": "Action ActionCallable ActionRegistry action_registry",
    "backend_registry": (
        "configure_workflow_engine configure_workflow_engine_from_settings get_workflow_engine"
    ),
    "backends.celery": "CeleryWorkflowEngine",
    "backends.local": "LocalWorkflowEngine",
    "core.actors": "acting_as",
    "core.limits": "Limit LimitKeyError Rate",
    "durable.answers.calls": "first_of wait_for_event wait_until",
    "durable.answers.coroutines": "afirst_of await_for_event await_until",
    "durable.answers.sources": "answer on_event on_signal",
    "durable.children.specs": "Child child",
    "durable.coroutines": "achild_result agather areport asleep astep await_for",
    "durable.ending": "DeadlinePassed",
    "durable.errors": (
        "ChildCycle ChildFailed CompensationIncomplete StepFailed StepTimeout "
        "WorkflowCancelRequested"
    ),
    "durable.signals": "SignalSnapshot SignalStatus",
    "durable": (
        "child_result continue_as_new current_execution_id gather report saga sleep step wait_for"
    ),
    "executions.query": "ExecutionQuery",
    "executions.results": "CannotWaitError ResultTimeout WorkflowFailedError",
    "engine": (
        "ACTIVE_STATES TERMINAL_STATES ChildCount Retry WorkflowDefinition "
        "WorkflowEngine WorkflowExecution WorkflowHandler WorkflowState"
    ),
    "event_registry": (
        "DatabaseEventRegistry DeadLetterHandler EventHandler EventPredicate EventRegistry "
        "EventValidator InMemoryEventRegistry InvalidEvent Registration RetryPredicate "
        "apublish_sync configure_event_registry configure_event_registry_from_settings "
        "get_event_registry publish_sync"
    ),
    "events": (
        "EXECUTION_CANCELLED EXECUTION_COMPLETED EXECUTION_FAILED "
        "MANAGER_CREATED MANAGER_DELETED MANAGER_UPDATED WorkflowEvent manager_created_event "
        "manager_deleted_event manager_updated_event"
    ),
    "exceptions": (
        "ActionAlreadyRegisteredError ActionNotFoundError EncodingError ExecutionOverdue "
        "HandlerNotAllowedError HandlerNotImportableError PermanentFailure RetryAfter "
        "StepInDoubt StepUsageError WaitTimeout WorkerDied "
        "WorkflowCancelledError WorkflowError WorkflowExecutionNotFoundError "
        "WorkflowInvalidStateError WorkflowWaitMismatchError"
    ),
    "history": "HistoryEntry HistoryKind",
    "models": (
        "WorkflowStep WorkflowHistory WorkflowHeartbeat OutboxStatus DeliveryStatus "
        "WorkflowDeliveryAttempt WorkflowEventRecord WorkflowExecutionRecord WorkflowOutbox "
        "WorkflowEventWait WorkflowLane WorkflowLimitKey WorkflowPause WorkflowSchedule "
        "WorkflowSignal WorkflowTakenEvent"
    ),
    "pauses": "Pause PauseKind TooManyParkedError",
    "resume_links": "resume_url",
    "schedules": "Schedule ScheduleNotFoundError ScheduleRefusedError schedule",
    "scheduling.verbs": "pause_schedule run_schedule unpause_schedule",
    "signal_bridge": "connect_workflow_signal_bridge disconnect_workflow_signal_bridge",
}
"""Each module's public names, separated by spaces."""
WHERE_PUBLIC: Final = {name: module for module, names in _MODULES.items() for name in names.split()}

NEED_A_PROJECT: Final = frozenset(
    (
        "DatabaseEventRegistry",
        *_MODULES["backends.celery"].split(),
        *_MODULES["models"].split(),
        *_MODULES["scheduling.verbs"].split(),
    )
)
"""Modules that import models, so Django must be set up."""
