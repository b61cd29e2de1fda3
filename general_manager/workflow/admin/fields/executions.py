"""An execution's values as its list and its page show them."""

from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.fields.children import children_block, execution_link
from general_manager.workflow.admin.fields.formats import (
    BREAK,
    NONE,
    ago,
    ahead,
    badge,
    isolated,
    json_block,
    short_id,
    shortened,
    text_block,
)
from general_manager.workflow.admin.fields.links import anchor, cause_link, subject_link
from general_manager.workflow.admin.fields.progress import other_reports, progress_of
from general_manager.workflow.admin.fields.signals import signals_block
from general_manager.workflow.admin.fields.taken import events_block
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowSchedule
from general_manager.workflow.operations.lines import limits_in_words, place_in_words
from general_manager.workflow.operations.moments import last_line
from general_manager.workflow.operations.timeline import LARGE
from general_manager.workflow.operations.trace import schedule_of
from general_manager.workflow.operations.waits import awaited, metadata_to_show

EARLIER = 10


class ExecutionFields:
    # The columns of the list

    @admin.display(description=gettext_lazy("State"))
    def state_badge(self, record: WorkflowExecutionRecord) -> SafeString:
        return badge("paused" if record.parked_at else record.state)

    @admin.display(description=gettext_lazy("Workflow"))
    def what(self, record: Any) -> SafeString:
        return format_html(
            '{}<br><span class="gm-quiet">{}</span>',
            isolated(record.workflow_id), subject_link(record, record.links),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Execution"))
    def which(self, record: WorkflowExecutionRecord) -> SafeString:
        about = record.correlation_id or ""
        return format_html(
            '{}<br><span class="gm-quiet" title="{}"><bdi>{}</bdi></span>',
            short_id(record.execution_id), visible(about), visible(shortened(about)),
        )  # fmt: skip

    @admin.display(description=gettext_lazy("Started"))
    def when(self, record: WorkflowExecutionRecord) -> SafeString:
        return ago(record.started_at or record.created_at)

    @admin.display(description=gettext_lazy("Note"))
    def note(self, record: WorkflowExecutionRecord) -> SafeString:
        return isolated(self._note(record))

    def _note(self, record: Any) -> str:
        """The most useful fact for the execution's state."""
        if record.state == WorkflowState.FAILED:
            return last_line(record.error)
        if record.ending_at is not None and record.ended_at is None:
            return _("undoing what was done, then %(state)s") % {
                "state": (record.ending or {}).get("state", ""),
            }  # fmt: skip
        if record.state == WorkflowState.WAITING:
            until = f" ({ahead(record.wake_at)})" if record.wake_at else ""
            values = {"name": record.waiting_for, "until": until, "count": record.gathered}
            words = _("sleeping%(until)s")
            if record.gathered is not None:
                words = _("waiting for children, %(count)s%(until)s")
            elif record.waiting_for is not None:
                words = _("waiting for “%(name)s”%(until)s")
            return words % values
        return self._note_of_others(record)

    def _note_of_others(self, record: WorkflowExecutionRecord) -> str:
        if record.parked_at is not None:
            since = in_words(timezone.now() - record.parked_at)
            return _("parked for %(time)s: its workflow is paused") % {"time": since}
        if record.state == WorkflowState.PENDING and record.attempts and record.wake_at:
            return _("attempt %(number)d %(time)s") % {
                "number": record.attempts + 1, "time": ahead(record.wake_at),
            }  # fmt: skip
        if record.state == WorkflowState.PENDING and not record.started_at:
            return self._before_start(record)
        took = self.duration(record)
        return took if took != NONE else ""

    def _before_start(self, record: WorkflowExecutionRecord) -> str:
        if record.is_held:
            return _("held until another child of its parent is over")
        if record.waits_slot is not None and record.limits:
            return _("in line for %(limit)s") % {"limit": record.limits["label"]}
        if record.is_for_later and record.wake_at:
            return _("starts %(time)s") % {"time": ahead(record.wake_at)}
        return ""

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

    @admin.display(description=gettext_lazy("Queue"))
    def queue_and_priority(self, record: WorkflowExecutionRecord) -> str:
        queue = record.queue or NONE
        if not record.priority:
            return queue
        return _("%(queue)s, priority %(number)d") % {"queue": queue, "number": record.priority}

    @admin.display(description=gettext_lazy("Limit"))
    def limit(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return isolated(limits_in_words(record)) if record.limits else NONE

    @admin.display(description=gettext_lazy("In line for"))
    def in_line(self, record: WorkflowExecutionRecord) -> SafeString | str:
        place = place_in_words(record)
        return isolated(place) if place else NONE

    @admin.display(description=gettext_lazy("Next wake-up"))
    def next_wake_up(self, record: WorkflowExecutionRecord) -> str:
        return ahead(record.wake_at) if record.wake_at else NONE

    @admin.display(description=gettext_lazy("Deadline"))
    def time_left(self, record: WorkflowExecutionRecord) -> str:
        if record.lifetime is None:
            return NONE
        whole = _("%(time)s after the start") % {"time": in_words(record.lifetime)}
        return f"{whole} ({ahead(record.deadline)})" if record.deadline else whole

    @admin.display(description=gettext_lazy("Event"))
    def event(self, record: Any) -> SafeString | str:
        return cause_link(record.caused_by, record.links)

    @admin.display(description=gettext_lazy("About"))
    def subject_shown(self, record: Any) -> SafeString | str:
        return subject_link(record, record.links) or NONE

    @admin.display(description=gettext_lazy("Attributes"))
    def attributes_shown(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.attributes)

    @admin.display(description=gettext_lazy("Progress"))
    def progress(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return progress_of(record.reports) or NONE

    @admin.display(description=gettext_lazy("Other reports"))
    def other_reports(self, record: WorkflowExecutionRecord) -> SafeString:
        return other_reports(record.reports)

    @admin.display(description=gettext_lazy("Continuation"))
    def continuation(self, record: Any) -> SafeString | str:
        before = record.metadata.get("continues") if isinstance(record.metadata, dict) else None
        if not isinstance(before, str) or not before:
            return NONE
        return anchor(record.links.to_execution(before[:SHORT]), before[:SHORT])

    @admin.display(description=gettext_lazy("Schedule"))
    def schedule(self, record: Any) -> SafeString | str:
        text = schedule_of(record.metadata)
        name = record.metadata["schedule"][:SHORT] if text else ""
        return (
            NONE
            if not text
            else anchor(record.links.to_list(WorkflowSchedule, q=name), text[:SHORT])
        )

    @admin.display(description=gettext_lazy("Sent to it"))
    def signals(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return signals_block(record)

    @admin.display(description=gettext_lazy("Parent"))
    def parent_shown(self, record: Any) -> SafeString | str:
        return execution_link(record.parent, record.links)

    @admin.display(description=gettext_lazy("First ancestor"))
    def root_shown(self, record: Any) -> SafeString | str:
        return execution_link(record.root, record.links)

    @admin.display(description=gettext_lazy("Children"))
    def children_shown(self, record: Any) -> SafeString | str:
        return children_block(record)

    @admin.display(description=gettext_lazy("Waits for"))
    def waits_for(self, record: WorkflowExecutionRecord) -> SafeString | str:
        return isolated(awaited(record)) or NONE

    @admin.display(description=gettext_lazy("Answered by events"))
    def events_taken(self, record: Any) -> SafeString | str:
        return events_block(record, record.links)

    @admin.display(description=gettext_lazy("Input"))
    def input(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.input_data)

    @admin.display(description=gettext_lazy("Output"))
    def output(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(record.output_data)

    @admin.display(description=gettext_lazy("Metadata"))
    def about(self, record: WorkflowExecutionRecord) -> SafeString:
        return json_block(metadata_to_show(record))

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
    def earlier(self, record: Any) -> SafeString | str:
        if not record.correlation_id:
            return NONE
        same = record.reader.rows(WorkflowExecutionRecord)
        same = same.filter(correlation_id=record.correlation_id, workflow_id=record.workflow_id)
        found = same.exclude(pk=record.pk).order_by("-pk").defer(*LARGE)[:EARLIER]
        links = [
            (badge(one.state), anchor(record.links.to(type(one), one.pk), str(one)))
            for one in record.reader.seen(Bounded(WorkflowExecutionRecord).read(found))
        ]
        return format_html_join(BREAK, "{} {}", links) or NONE
