"""The tables, each with its queries and every change of state that its rows may make."""

from general_manager.workflow.models.claiming import Claim as Claim
from general_manager.workflow.models.claiming import OutboxStatus
from general_manager.workflow.models.delivery import DeliveryStatus, WorkflowDeliveryAttempt
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.heartbeat import WorkflowHeartbeat
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.outbox import WorkflowOutbox
from general_manager.workflow.models.proxies import DeadLetter as DeadLetter
from general_manager.workflow.models.proxies import Overview as Overview
from general_manager.workflow.models.step import WorkflowStep

__all__ = [
    "DeliveryStatus",
    "OutboxStatus",
    "WorkflowDeliveryAttempt",
    "WorkflowEventRecord",
    "WorkflowExecutionRecord",
    "WorkflowHeartbeat",
    "WorkflowHistory",
    "WorkflowOutbox",
    "WorkflowStep",
]
