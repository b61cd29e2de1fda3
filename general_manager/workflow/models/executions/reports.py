"""What handlers report: one column, written under the claim."""

from collections.abc import Mapping
from typing import Any

from general_manager.workflow.models.sql.commits import update_without_waiting

MOST_NAMES_KEPT = 40
"""Names that earlier code of a workflow used are kept up to this number."""


def write_reports(executions: Any, record: Any, values: Mapping[str, Any]) -> bool:
    """Add *values* to the reports of the run's execution, if the run still holds it.

    Does not wait for the disk: the next report makes a lost one good.
    """
    held = executions.held(record)
    known: Mapping[str, Any] = {}
    if "reports" in record.__dict__:
        known = record.reports or {}
    elif record.runs > 1:
        known = held.values_list("reports", flat=True).first() or {}
    others = [(name, value) for name, value in known.items() if name not in values]
    record.reports = {**dict(others[: max(0, MOST_NAMES_KEPT - len(values))]), **values}
    return bool(update_without_waiting(held, reports=record.reports))
