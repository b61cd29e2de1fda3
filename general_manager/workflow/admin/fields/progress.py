"""What a handler reports as its progress, as a bar with words beside it."""

from typing import Any, Final

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from general_manager.escaping import cut
from general_manager.workflow.admin.fields.formats import NONE, isolated, json_block
from general_manager.workflow.durable.reports import PROGRESS

LONGEST_NUMBER: Final = 30
"""Characters of a number."""


def progress_of(reports: Any) -> SafeString:
    """The bar for a run's reports; empty if it reports no progress."""
    value = reports.get(PROGRESS) if isinstance(reports, dict) else None
    if value is None:
        return SafeString("")
    found = _parts(value)
    if found is None:
        return isolated(value) if isinstance(value, str | int | float) else json_block(value)
    done, of = found
    share = _share(done, of)
    words = _("%(done)s of %(of)s (%(percent)d %%)") % {
        "done": cut(f"{done:,}", LONGEST_NUMBER),
        "of": cut(f"{of:,}", LONGEST_NUMBER),
        "percent": share * 100,
    }  # fmt: skip
    if not isinstance(value, dict):
        words = f"{share:.0%}"
    return format_html(
        '<progress class="gm-progress" value="{}" max="1">{}</progress> '
        '<span class="gm-quiet">{}</span>',
        f"{share:.4f}", words, words,
    )  # fmt: skip


def other_reports(reports: Any) -> SafeString:
    if not isinstance(reports, dict):
        return SafeString(NONE)
    return json_block({name: value for name, value in reports.items() if name != PROGRESS})


def _parts(value: Any) -> tuple[float, float] | None:
    """``{"done": 3, "of": 10}``, or a share from 0 to 1."""
    if isinstance(value, dict):
        done: Any = value.get("done")
        of: Any = value.get("of")
        if _is_number(done) and _is_number(of) and of > 0:
            return done, of
        return None
    return (value, 1) if _is_number(value) and 0 <= value <= 1 else None


def _share(done: float, of: float) -> float:
    """From 0 to 1, also of numbers that are too large for a float."""
    try:
        return max(0.0, min(1.0, done / of))
    except OverflowError:
        return 1.0 if done > of else 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
