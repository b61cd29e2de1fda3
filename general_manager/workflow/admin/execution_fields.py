"""An execution's values as the list and the page of one show them."""

from typing import Any

from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.durations import in_words
from general_manager.workflow.admin.formats import (
    BREAK,
    NONE,
    ago,
    ahead,
    badge,
    json_block,
    short_id,
    shortened,
    text_block,
)
from general_manager.workflow.admin.links import event_link, subject_link
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.timeline import last_line

EARLIER = 10


def object_url(key: Any) -> str:
    return reverse("admin:general_manager_workflowexecutionrecord_change", args=[key])


def by_id_url(execution_id: str) -> str:
    return reverse("admin:general_manager_execution_by_id", args=[execution_id])


class ExecutionFields:
    # The columns of the list

    @admin.display(description=gettext_lazy("State"))
    def state_badge(self, record: WorkflowExecutionRecord) -> SafeString:
        return badge(record.state)

    @admin.display(description=gettext_lazy("Workflow"))
    def what(self, record: WorkflowExecutionRecord) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            record.workflow_id, subject_link(record),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Execution"))
    def which(self, record: WorkflowExecutionRecord) -> SafeString:
        about = record.correlation_id or ""
        return format_html(
            '{}<br><span class="gm-quiet" title="{}">{}</span>',
            short_id(record.execution_id), about, shortened(about),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Started"))
    def when(self, record: WorkflowExecutionRecord) -> SafeString:
        return ago(record.started_at or record.created_at)

    @admin.display(description=gettext_lazy("Note"))
    def note(self, record: WorkflowExecutionRecord) -> str:
        """The one thing worth knowing in each state."""
        if record.state == WorkflowState.FAILED:
            return last_line(record.error)
        if record.state == WorkflowState.WAITING:
            until = f" ({ahead(record.wake_at)})" if record.wake_at else ""
            if record.waiting_for is None:
                return _("sleeps%(until)s") % {"until": until}
            return _("waits for “%(name)s”%(until)s") % {"name": record.waiting_for, "until": until}
        if record.state == WorkflowState.PENDING and record.attempts and record.wake_at:
            return _("attempt %(number)d %(time)s") % {
                "number": record.attempts + 1, "time": ahead(record.wake_at),
            }  # fmt: skip
        took = self.duration(record)
        return took if took != NONE else ""

    # The fields of one execution

    @admin.display(description=gettext_lazy("Duration"))
    def duration(self, record: WorkflowExecutionRecord) -> str:
        if record.started_at is None:
            return NONE
        return in_words((record.ended_at or timezone.now()) - record.started_at)

    @admin.display(description=gettext_lazy("Counts"))
    def counts(self, record: WorkflowExecutionRecord) -> str:
        return _("runs: %(runs)d, failed attempts since the last step: %(attempts)d, "
                 "crashes since the last step: %(crashes)d") % {
            "runs": record.runs, "attempts": record.attempts, "crashes": record.crashes,
        }  # fmt: skip

    @admin.display(description=gettext_lazy("Looked at again"))
    def next_look(self, record: WorkflowExecutionRecord) -> str:
        return ahead(record.wake_at) if record.wake_at else NONE

    @admin.display(description=gettext_lazy("Event"))
    def event(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return event_link(record.caused_by)

    @admin.display(description=gettext_lazy("About"))
    def subject(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return subject_link(record) or NONE

    @admin.display(description=gettext_lazy("Continuation"))
    def continuation(self, record: WorkflowExecutionRecord) -> SafeString | str:
        before = record.metadata.get("continues") if isinstance(record.metadata, dict) else None
        if not before:
            return NONE
        return format_html('<a href="{}">{}</a>', by_id_url(str(before)), before)

    @admin.display(description=gettext_lazy("Input"))
    def input(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.input_data)

    @admin.display(description=gettext_lazy("Output"))
    def output(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.output_data)

    @admin.display(description=gettext_lazy("Metadata"))
    def about(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.metadata)

    @admin.display(description=gettext_lazy("Retry policy"))
    def retry_policy(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.retry)

    @admin.display(description=gettext_lazy("Error"))
    def error_text(self, record: WorkflowExecutionRecord) -> SafeString:
        return text_block(record.error or "", _("Error"))

    @admin.display(description=gettext_lazy("Traceback"))
    def trace(self, record: WorkflowExecutionRecord) -> SafeString:
        return text_block(record.traceback, _("Traceback"))

    @admin.display(description=gettext_lazy("Executions"))
    def earlier(self, record: WorkflowExecutionRecord) -> SafeString | str:
        if not record.correlation_id:
            return NONE
        same = WorkflowExecutionRecord.objects.filter(correlation_id=record.correlation_id)
        same = same.filter(workflow_id=record.workflow_id).exclude(pk=record.pk)
        rows = same.only("pk", "execution_id", "state", "created_at").order_by("-pk")[:EARLIER]
        links = [(badge(one.state), object_url(one.pk), one) for one in rows]
        return format_html_join(BREAK, '{} <a href="{}">{}</a>', links) or NONE
