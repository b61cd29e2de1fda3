"""An execution's family as its page shows it: its children, and what they came to."""

from collections.abc import Collection
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import SHORT
from general_manager.workflow.admin.fields.formats import BREAK, NONE, badge, shortened
from general_manager.workflow.admin.fields.links import Links, anchor
from general_manager.workflow.operations.family import GatherCount, children_shown, counts_of


def find_gathers(records: Collection[Any]) -> None:
    """Set on each of *records* how many children are over of those it waits for: "3 of 10".

    Two statements for all, and none if none of them waits for children.
    """
    waiting = [
        one
        for one in records
        if one.state == "waiting" and one.waiting_for is None and one.has_children
    ]
    using = waiting[0]._state.db if waiting else ""
    found = counts_of(using, [one.pk for one in waiting]) if waiting else {}
    for record in records:
        record.gathered = found.get(record.pk)


def execution_link(execution_id: str | None, links: Links) -> SafeString | str:
    if not execution_id:
        return NONE
    return anchor(links.to_execution(execution_id), shortened(execution_id), execution_id)


def children_block(record: Any) -> SafeString | str:
    """Each gather with its count and its first children, which are linked."""
    blocks = ((_heading(one), _lines(one, record.links)) for one in children_shown(record))
    return format_html_join(BREAK, "{}{}", blocks) or NONE


def _heading(gather: GatherCount) -> SafeString:
    words = ngettext(
        "%(over)d of %(total)d child is over", "%(over)d of %(total)d children are over",
        gather.total,
    ) % {"over": gather.over, "total": gather.total}  # fmt: skip
    if gather.failed:
        words += ", " + _("%d not completed") % gather.failed
    return format_html("<strong><bdi>{}</bdi></strong> {}", visible(gather.name[:SHORT]), words)


def _lines(gather: GatherCount, links: Links) -> SafeString:
    lines = [
        (
            badge(one.state),
            visible(one.key[:SHORT]),
            anchor(links.to_execution(one.execution_id), shortened(one.execution_id)),
            visible(one.error[:SHORT]),
        )
        for one in gather.shown
    ]
    form = '<br>{} <bdi>{}</bdi> {} <span class="gm-quiet"><bdi>{}</bdi></span>'
    found = format_html_join("", form, lines)
    left = gather.total - len(lines)
    return format_html("{}<br>{}", found, _("and %d more") % left) if left > 0 else found
