"""Names under which the admin shows some rows of a table as a page of its own."""

from django.utils.translation import gettext_lazy as _

from general_manager.workflow.models.delivery import WorkflowDeliveryAttempt
from general_manager.workflow.models.execution import WorkflowExecutionRecord


class Overview(WorkflowExecutionRecord):
    """What an operator sees first."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("overview")
        verbose_name_plural = _("overview")


class DeadLetter(WorkflowDeliveryAttempt):
    """Deliveries that failed for the last time."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
