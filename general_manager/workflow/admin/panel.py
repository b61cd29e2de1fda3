"""The workflows of a business object, on its own admin page and elsewhere.

Who may not view executions sees nothing. The executions are those that the user would see on our
own pages, so a project that narrows those narrows this too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.admin import AdminSite
from django.db import InterfaceError, OperationalError
from django.db.models import Model
from django.http import HttpRequest
from django.template.loader import get_template, select_template
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from general_manager.escaping import get_logger, visible
from general_manager.names import APP_LABEL
from general_manager.workflow.admin.bounds import SHORT, Bounded
from general_manager.workflow.admin.fields.children import find_gathers
from general_manager.workflow.admin.fields.executions import ExecutionFields
from general_manager.workflow.admin.fields.formats import ago, badge, isolated, short_id
from general_manager.workflow.admin.fields.links import Links, anchor
from general_manager.workflow.admin.fields.progress import progress_of
from general_manager.workflow.admin.scope import Reader
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.executions.search import keys_about
from general_manager.workflow.executions.subjects import subject_text, subjects_of
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.operations.moments import last_line
from general_manager.workflow.operations.timeline import LARGE

logger = get_logger(__name__)

MOST_LINES: Final = 10
PANEL: Final = "admin/general_manager/workflows.html"
AROUND: Final = "admin/general_manager/object.html"


@dataclass(frozen=True, slots=True)
class Line:
    """One execution as the panel shows it."""

    state: SafeString
    workflow: SafeString | str
    execution: SafeString
    started: SafeString
    note: SafeString | str
    progress: SafeString


@dataclass(frozen=True, slots=True)
class Panel:
    lines: Sequence[Line]
    all_url: str = ""
    """The list of all; empty if there is none, or no more."""
    is_away: bool = False
    """Whether our database does not answer: the object's own page is shown all the same."""


class WorkflowsPanel:
    """A mixin for any `ModelAdmin`: its object's page shows the executions about that object.

    Put it first: ``class InvoiceAdmin(WorkflowsPanel, admin.ModelAdmin)``. The page's own template
    stays; the panel follows its inlines.
    """

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        *args: Any,
        obj: Model | None = None,
        **kwargs: Any,
    ) -> Any:
        around: Any = super()
        page: Any = self
        response = around.render_change_form(request, context, *args, obj=obj, **kwargs)
        panel = None if obj is None else panel_of(obj, page.admin_site, request)
        if panel is None or not isinstance(response, TemplateResponse):
            return response
        names: Any = response.template_name
        several = [names] if isinstance(names, str) else names
        is_named = isinstance(several, list | tuple)
        response.context_data = {
            **(response.context_data or {}),
            "gm_page": select_template(list(several)) if is_named else names,
            "gm_panel": panel,
        }
        response.template_name = AROUND
        return response


def panel_of(obj: Any, site: AdminSite, request: HttpRequest) -> Panel | None:
    """The panel for this user; `None` for a user who may not view executions."""
    reader = Reader(site, request)
    if not reader.may_view(WorkflowExecutionRecord):
        return None
    if getattr(get_workflow_engine(), "supports_timers", False):
        return _remembered(obj, reader)
    try:
        return _stored(obj, reader)
    except (OperationalError, InterfaceError):
        logger.exception("The workflows of an object could not be read")
        return Panel([], is_away=True)


def _stored(obj: Any, reader: Reader) -> Panel:
    rows: Any = reader.rows(WorkflowExecutionRecord)
    keys = keys_about(rows, reader.rows(WorkflowEventRecord), subjects_of(obj), MOST_LINES + 1)
    large = (one for one in LARGE if one != "reports")
    found = rows.filter(pk__in=keys).order_by("-pk").defer("traceback", *large)
    records = reader.seen(Bounded(WorkflowExecutionRecord).read(found))
    find_gathers(records)
    links = Links(reader)
    more = ""
    if len(records) > MOST_LINES:
        more = links.to_list(WorkflowExecutionRecord, q=subject_text(obj))
    return Panel([_line(one, links) for one in records[:MOST_LINES]], more)


def _line(record: WorkflowExecutionRecord, links: Links) -> Line:
    url = links.to(WorkflowExecutionRecord, record.pk)
    return Line(
        badge(record.state),
        anchor(url, record.workflow_id, record.execution_id),
        short_id(record.execution_id),
        ago(record.started_at or record.created_at),
        ExecutionFields().note(record),
        progress_of(record.reports),
    )


def _remembered(obj: Any, reader: Reader) -> Panel | None:
    """In local mode: what this process remembers. Rows are what a project narrows, so not there."""
    if reader.is_narrowed(WorkflowExecutionRecord):
        return None
    engine = get_workflow_engine()
    lines = [
        Line(
            badge(one.state),
            isolated(one.workflow_id[:SHORT]),
            short_id(one.execution_id),
            ago(one.started_at),
            visible((one.waiting_for or last_line(one.error))[:SHORT]),
            progress_of({"progress": engine.progress(one.execution_id)}),
        )
        for one in engine.executions(subject=obj)[:MOST_LINES]
    ]
    return Panel(lines)


def render_panel(panel: Panel | None) -> SafeString:
    """For pages outside the admin; empty if there is no panel."""
    if panel is None:
        return SafeString("")
    context = {"gm_panel": panel, "gm_style": f"{APP_LABEL}/admin.css"}
    return SafeString(get_template(PANEL).render(context))
