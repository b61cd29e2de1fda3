"""Pauses of names that nobody registers."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.db import DatabaseError

from general_manager.check_messages import warning
from general_manager.conf import find_problems
from general_manager.workflow.admission.pausing import read_pauses
from general_manager.workflow.models.databases import aliases
from general_manager.workflow.operations.pauses import is_known


def check_pauses(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W070: what is paused is registered, or was started. Only with ``--database``."""
    if any(problem.is_error for problem in find_problems()):
        return []
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if alias not in aliases():
            continue
        try:
            unknown = [one for one in read_pauses(using=alias) if not is_known(one)]
        except DatabaseError:  # such as before the first migration: W009 says so
            continue
        messages += [
            warning(
                "W070",
                f"The {one.kind} {one.name!r} is paused in database {alias!r}, and nothing of that "
                "name is registered or was ever started.",
                "If the name is misspelt, unpause it: manage.py workflow_pauses.",
            )
            for one in unknown
        ]
    return messages
