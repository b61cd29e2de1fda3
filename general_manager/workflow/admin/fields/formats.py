"""How the pages format values: badges, ages, JSON, ids. Everything is escaped."""

from datetime import datetime, timedelta
from typing import Any, Final

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admin.bounds import NotRead
from general_manager.workflow.core.redaction import readable
from general_manager.workflow.operations.moments import in_zone

NONE: Final = "\N{EN DASH}"
BREAK: Final = SafeString("<br>")
"""Separator for `format_html_join`: the result of `SafeString.join` is not marked safe."""
UUID_LENGTH: Final = 36
LONG_JSON: Final = 25
"""Lines of JSON above which a block is folded."""
MOST_JSON: Final = 200_000
"""Characters of JSON that a page shows: nobody reads more, and browsers become slow."""

STATE_NAMES: Final[dict[str, Promise]] = {
    "pending": gettext_lazy("pending"),
    "running": gettext_lazy("running"),
    "waiting": gettext_lazy("waiting"),
    "completed": gettext_lazy("completed"),
    "failed": gettext_lazy("failed"),
    "cancelled": gettext_lazy("cancelled"),
    "queued": gettext_lazy("queued"),
    "blocked": gettext_lazy("blocked"),
    "delayed": gettext_lazy("delayed"),
    "claimed": gettext_lazy("claimed"),
    "processed": gettext_lazy("processed"),
    "dead_letter": gettext_lazy("dead letter"),
    "discarded": gettext_lazy("discarded"),
    "scheduled": gettext_lazy("scheduled"),
    "paused": gettext_lazy("paused"),
    "lifted": gettext_lazy("lifted"),
    "late": gettext_lazy("late"),
    "unregistered": gettext_lazy("not registered"),
    "broken": gettext_lazy("broken"),
}


def badge(state: str) -> SafeString:
    """A state as text with border and tint: never by colour alone."""
    name = STATE_NAMES.get(state) or visible(state[:40])
    return format_html('<span class="gm-badge gm-{}">{}</span>', visible(state[:40]), name)


def short_id(value: str) -> SafeString:
    """The part of an id that distinguishes it from its neighbours, with the whole id as title."""
    whole = visible(value)
    return format_html('<bdi><code title="{}">{}</code></bdi>', whole, visible(shortened(value)))


def isolated(value: object) -> SafeString:
    """Untrusted text with every character visible and its own writing direction."""
    return format_html("<bdi>{}</bdi>", visible(str(value)))


def shortened(value: str) -> str:
    """The beginning of an id, which a search finds by an index.

    Our own ids begin with the time, so more of them is kept.
    """
    if len(value) == UUID_LENGTH and value.count("-") == 4:
        return f"{value[:18]}…" if value[14] == "7" else f"{value[:8]}…"
    return value if len(value) <= 24 else f"{value[:23]}…"


def ago(moment: datetime | None) -> SafeString:
    """The age in words, with the exact time as title."""
    if moment is None:
        return SafeString(NONE)
    text = _("%(age)s ago") % {"age": in_words(timezone.now() - moment)}
    at = in_zone(moment).isoformat()
    return format_html('<time datetime="{0}" title="{0}" dir="auto">{1}</time>', at, text)


def ahead(moment: datetime) -> str:
    """The time left in words."""
    left = moment - timezone.now()
    if left <= timedelta(0):
        return _("due now")
    return _("in %(time)s") % {"time": in_words(left)}


def json_block(value: Any) -> SafeString:
    """Redacted, indented JSON; folded if it is long."""
    if value is None or value == {}:
        return SafeString(NONE)
    if isinstance(value, NotRead):
        return text_block(str(value), "")
    text = readable(value, most=MOST_JSON)
    return text_block(text, _("JSON"))


def text_block(text: str, what: str) -> SafeString:
    """Preformatted *text*, folded if it is long. Each line has its own writing direction."""
    if not text:
        return SafeString(NONE)
    text = visible(text, lines=True)
    lines = text.count("\n") + 1
    block = format_html('<pre class="gm-pre" dir="auto" tabindex="0">{}</pre>', text)
    if lines <= LONG_JSON and len(text) <= LONG_JSON * 100:
        return block
    words = ngettext("%(what)s, %(lines)s line", "%(what)s, %(lines)s lines", lines)
    summary = words % {"what": what, "lines": f"{lines:,}"}
    return format_html('<details class="gm-fold"><summary>{}</summary>{}</details>', summary, block)
