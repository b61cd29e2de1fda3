"""Limits whose numbers contradict each other, or that cost or wait more than they should."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error

from general_manager.check_messages import warning
from general_manager.conf import find_problems, get_workflow_settings
from general_manager.durations import in_words
from general_manager.names import APP_LABEL
from general_manager.workflow.core.limits import Declared, Numbers, all_declared

MANY_SLOTS = 10_000
"""Each look counts the executions that hold a slot, or count for a rate."""


def check_limits(**_: Any) -> list[CheckMessage]:
    """E030, W050, W051: shared limits, large numbers, short periods."""
    if any(problem.is_error for problem in find_problems()):
        return []
    found = all_declared()
    messages = list(_contradictions(found))
    for workflow_id, one in found.items():
        messages += _check_numbers(workflow_id, one.numbers)
    return messages


def _contradictions(found: dict[str, Declared]) -> Iterator[CheckMessage]:
    scopes: dict[str, dict[Numbers, str]] = defaultdict(dict)
    for workflow_id, one in found.items():
        scopes[one.scope].setdefault(one.numbers, workflow_id)
    for scope, numbers in scopes.items():
        if len(numbers) > 1:
            said = " and ".join(f"{one} in workflow {name!r}" for one, name in numbers.items())
            yield Error(
                f"The limit {scope.removeprefix('name:')!r} has different numbers: {said}.",
                hint="Define the Limit or Rate once and use it in every workflow that shares it.",
                id=f"{APP_LABEL}.E030",
            )


def _check_numbers(workflow_id: str, numbers: Numbers) -> Iterator[CheckMessage]:
    largest = max(numbers.most or 0, numbers.rate or 0)
    if largest > MANY_SLOTS:
        yield warning(
            "W050",
            f"Workflow {workflow_id!r} has a limit or rate of {largest:,}: whenever one of its "
            "executions starts or ends, all that hold a slot are counted.",
            f"Use at most {MANY_SLOTS:,}, by a shorter period or a key with more values.",
        )
    interval = get_workflow_settings().beat_outbox_interval
    if numbers.per is not None and numbers.per < interval:
        yield warning(
            "W051",
            f"The rate of workflow {workflow_id!r} is per {in_words(numbers.per)}, but on an idle "
            f"system its line moves only every {in_words(interval)}, with each tick.",
            "Use a longer period with a larger number, or a shorter "
            "WORKFLOW_BEAT_OUTBOX_INTERVAL_SECONDS.",
        )
