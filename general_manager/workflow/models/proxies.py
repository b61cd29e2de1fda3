"""Proxy models, under which the admin shows some rows of a table on a page of their own."""

from django.utils.translation import gettext_lazy as _

from general_manager.workflow.models.delivery import WorkflowDeliveryAttempt
from general_manager.workflow.models.execution import WorkflowExecutionRecord


class Overview(WorkflowExecutionRecord):
    """The admin's overview page."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("overview")
        verbose_name_plural = _("overview")


class DeadLetter(WorkflowDeliveryAttempt):
    """Deliveries that failed for good."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
