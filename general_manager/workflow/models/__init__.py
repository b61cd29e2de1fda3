"""The tables, each with its queries and every state transition of its rows."""

from general_manager.workflow.models.answers.taken import WorkflowTakenEvent
from general_manager.workflow.models.answers.wait import WorkflowEventWait
from general_manager.workflow.models.children.table import WorkflowChildSlot as WorkflowChildSlot
from general_manager.workflow.models.delivery import DeliveryStatus, WorkflowDeliveryAttempt
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.heartbeat import WorkflowHeartbeat
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.lane import WorkflowLane
from general_manager.workflow.models.limit_key import WorkflowLimitKey
from general_manager.workflow.models.outbox import WorkflowOutbox
from general_manager.workflow.models.pause import WorkflowPause
from general_manager.workflow.models.proxies import DeadLetter as DeadLetter
from general_manager.workflow.models.proxies import Overview as Overview
from general_manager.workflow.models.queue import WorkflowQueue as WorkflowQueue
from general_manager.workflow.models.schedule import WorkflowSchedule
from general_manager.workflow.models.signal import WorkflowSignal
from general_manager.workflow.models.sql.claims import Claim as Claim
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.models.step import WorkflowStep

__all__ = [
    "DeliveryStatus",
    "OutboxStatus",
    "WorkflowDeliveryAttempt",
    "WorkflowEventRecord",
    "WorkflowEventWait",
    "WorkflowExecutionRecord",
    "WorkflowHeartbeat",
    "WorkflowHistory",
    "WorkflowLane",
    "WorkflowLimitKey",
    "WorkflowOutbox",
    "WorkflowPause",
    "WorkflowSchedule",
    "WorkflowSignal",
    "WorkflowStep",
    "WorkflowTakenEvent",
]
