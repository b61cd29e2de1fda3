"""What is wrong with pauses: names that nobody registers, and pauses that were forgotten."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final

from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.durations import in_words
from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.admission.pausing import merge_pauses, read_pauses
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.pauses import Pause, PauseKind
from general_manager.workflow.schedules import all_schedules

FORGOTTEN: Final = timedelta(days=1)
"""A pause that has held work back for so long may be forgotten."""
MOST_PAUSES_NAMED: Final = 5


def is_in_memory(kind: PauseKind) -> bool:
    """Whether a pause of this kind is in the memory of one process, which no other one sees."""
    if kind is PauseKind.REGISTRATION:
        return not getattr(get_event_registry(), "supports_tables", False)
    return bool(getattr(get_workflow_engine(), "supports_timers", False))


def list_pauses(reach: Reach) -> list[Pause]:
    """Every pause that is in force, the latest first; of the databases that can be reached."""
    engine = get_workflow_engine()
    if any(map(is_in_memory, PauseKind)) or not getattr(engine, "supports_tables", False):
        return engine.pauses()
    aliases = outboxes()
    found = [reach.read(one, partial(read_pauses, using=one)) for one in aliases]
    reach.fail_if_none(aliases)
    pauses = merge_pauses(chain.from_iterable(found))
    return sorted(pauses, key=lambda one: one.since, reverse=True)


def is_known(pause: Pause) -> bool:
    """Whether this process registers it, or executions of the workflow were ever started."""
    if pause.kind is PauseKind.REGISTRATION:
        return get_event_registry().find_registration(pause.name) is not None
    if any(one.workflow.workflow_id == pause.name for one in all_schedules().values()):
        return True
    executions = WorkflowExecutionRecord.objects.using(router.db_for_read(WorkflowExecutionRecord))
    return executions.filter(workflow_id=pause.name).exists()


def unknown_among(pauses: Iterable[Pause], reach: Reach) -> list[Pause]:
    """Those that are known nowhere; none, if the executions' database cannot be reached."""
    home = router.db_for_read(WorkflowExecutionRecord)
    return reach.read(home, lambda: [one for one in pauses if not is_known(one)])


def pause_troubles(
    pauses: Iterable[Pause], at: datetime
) -> Iterator[tuple[str, str, str, int, int]]:
    """Code, message, remedy, weight and count."""
    unknown = [one for one in pauses if not is_known(one)]
    if unknown:
        yield (
            "unknown-pauses",
            ngettext(
                "%s is paused, and nothing of that name is registered or was ever started.",
                "%s are paused, and nothing of these names is registered or was ever started.",
                len(unknown),
            )
            % _named(unknown),
            _("Is the name misspelt? Unpause it: manage.py workflow_pauses"),
            35,
            len(unknown),
        )
    old = [one for one in pauses if one.parked and at - one.since > FORGOTTEN]
    if old:
        yield (
            "long-pauses",
            ngettext(
                "%(names)s has been paused for %(time)s, and holds work back.",
                "%(names)s have been paused for up to %(time)s, and hold work back.",
                len(old),
            )
            % {"names": _named(old), "time": in_words(at - min(one.since for one in old))},
            _("Is it forgotten? Unpause it: manage.py workflow_pauses"),
            25,
            sum(one.parked for one in old),
        )


def paused_already(pause: Pause) -> str:
    """That it is paused, since when, by whom and why."""
    text = _("It is paused already, for %(time)s, by %(who)s%(why)s.")
    return text % {
        "time": in_words(timezone.now() - pause.since),
        "who": visible(pause.by) or _("unknown"),
        "why": f": {visible(pause.reason).rstrip('.')}" if pause.reason else "",
    }


def pause_to_json(pause: Pause) -> dict[str, Any]:
    return {
        "kind": str(pause.kind),
        "name": pause.name,
        "since": pause.since.isoformat(),
        "by": pause.by,
        "reason": pause.reason,
        "parked": pause.parked,
        "running": pause.running,
    }


def _named(pauses: list[Pause]) -> str:
    more = ", …" if len(pauses) > MOST_PAUSES_NAMED else ""
    names = (f"{one.kind} {one.name}" for one in pauses[:MOST_PAUSES_NAMED])
    return ", ".join(visible(name[:MAX_TITLE]) for name in names) + more
