"""The admin's pages on a million executions: SQL time and statements of each.

Run with ``tox run -e bench`` or ``python -m benchmarks.admin``. Exits with an error if a page needs
more than 100 ms of SQL, or more statements than on small tables.
"""

import os
import re
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlencode

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.admin_settings"
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from benchmarks.full_tables import fill
from benchmarks.measuring import seconds, show
from general_manager.workflow.models import (
    DeadLetter,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)

EXECUTIONS: Final = 1_000_000
FEW: Final = 12_000
ROUNDS: Final = 7
MOST_MS: Final = 100

EXECUTION_QUERIES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"p": 2},
    {"p": 200},
    *({"state": state} for state in ("pending", "running", "waiting")),
    *({"state": state} for state in ("completed", "failed", "cancelled")),
    {"state": "cancelled", "p": 2},
    {"workflow": "order.fulfil"},
    {"workflow": "customer.welcome"},
    {"workflow": "order.refund"},
    {"workflow": "order.refund", "state": "failed"},
    {"workflow": "customer.welcome", "p": 200},
    {"workflow": "year.close"},
    {"workflow": "no.such"},
    *({"started": span} for span in ("hour", "day", "week")),
    *({"ended": span} for span in ("hour", "day", "week")),
    {"overdue": "yes"},
    *({"state": state, "ended": "day"} for state in ("completed", "failed", "cancelled")),
    {"state": "failed", "ended": "day", "workflow": "customer.welcome"},
    {"state": "failed", "workflow": "order.fulfil"},
    {"state": "cancelled", "workflow": "order.fulfil"},
    {"state": "waiting", "workflow": "order.fulfil"},
    {"state": "waiting", "started": "hour"},
    {"state": "failed", "started": "day"},
    {"state": "cancelled", "started": "week"},
    {"workflow": "year.close", "started": "day"},
    {"workflow": "year.close", "ended": "day"},
    {"state": "completed", "started": "hour"},
    {"state": "waiting", "p": 190},
    {"q": "order-12345"},
    {"q": "order-"},
    {"q": "no such"},
    {"q": "order-1", "state": "cancelled"},
)

# A workflow that was not started for more than a week: many rows fit each of the two filters, none
# fits both, and no index has both.
CONTRADICTIONS: Final[tuple[dict[str, Any], ...]] = tuple(
    {"workflow": "customer.welcome", name: span}
    for name in ("started", "ended")
    for span in ("hour", "day", "week")
)


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    url: str
    has_target: bool = True

    @property
    def kind(self) -> str:
        """What has a fixed number of statements; where nothing is found, there are fewer."""
        return re.sub(r"\?.*|\d+", "", self.url)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one page: milliseconds in the database, the slowest statement's, and how many there are.

    The first two are medians.
    """

    sql: float
    slowest: float
    statements: int


def pages() -> list[Page]:
    middle = WorkflowExecutionRecord.objects.order_by("pk")[:1].get().pk  # they are numbered
    count = WorkflowExecutionRecord.objects.count()
    many_steps = WorkflowExecutionRecord.objects.get(pk=middle + count // 2 - 1)
    failed = WorkflowExecutionRecord.objects.filter(state="failed").order_by("pk")[:1].get()
    letter = DeadLetter.objects.filter(status="dead_letter").order_by("pk")[:1].get()
    event = WorkflowEventRecord.objects.get(pk=letter.outbox_id)
    owed = WorkflowOutbox.objects.order_by("-pk")[:1].get()
    return [
        Page("overview", _list("overview")),
        *_executions(*EXECUTION_QUERIES),
        *(replace(page, has_target=False) for page in _executions(*CONTRADICTIONS)),
        Page("an execution by its id", _find("workflowexecutionrecord", many_steps.execution_id)),
        *_filtered(
            "workfloweventrecord",
            {},
            {"p": 200},
            {"type": "shop.order.fulfil.asked"},
            {"type": "shop.customer.welcome.asked"},
            {"type": "shop.order.refund.asked"},
            {"type": "shop.year.closed"},
            {"q": "no such"},
        ),
        Page("an event by its id", _find("workfloweventrecord", event.event_id)),
        *_filtered("deadletter", {}, {"p": 2}, {"handler": "order_paid"}, {"handler": "no_such"}),
        *_filtered("workflowoutbox", {}, {"p": 2}),
        Page("an execution with 50 steps", _one("workflowexecutionrecord", many_steps.pk)),
        Page("a failed execution", _one("workflowexecutionrecord", failed.pk)),
        Page("an event with a dead letter", _one("workfloweventrecord", event.pk)),
        Page("a dead letter", _one("deadletter", letter.pk)),
        Page("an outbox entry", _one("workflowoutbox", owed.pk)),
    ]


def _list(model: str) -> str:
    return reverse(f"admin:general_manager_{model}_changelist")


def _find(model: str, key: str) -> str:
    return f"{_list(model)}?{urlencode({'q': key})}"


def _one(model: str, key: int) -> str:
    return reverse(f"admin:general_manager_{model}_change", args=[key])


def _executions(*queries: dict[str, Any]) -> list[Page]:
    return _filtered("workflowexecutionrecord", *queries)


def _filtered(model: str, *queries: dict[str, Any]) -> list[Page]:
    names = {
        "workflowexecutionrecord": "executions",
        "workfloweventrecord": "events",
        "deadletter": "dead letters",
        "workflowoutbox": "outbox",
    }
    asked = [urlencode(query) for query in queries]
    return [Page(f"{names[model]} {text}".strip(), f"{_list(model)}?{text}") for text in asked]


def fetch(client: Client, url: str) -> list[float]:
    """The milliseconds of each statement."""
    times: list[float] = []

    def tally(execute: Any, sql: str, *arguments: Any) -> Any:
        started = perf_counter()
        try:
            return execute(sql, *arguments)
        finally:
            times.append((perf_counter() - started) * 1e3)

    with connection.execute_wrapper(tally):
        response = client.get(url)
    if response.status_code != 200:
        raise SystemExit(f"{url} gives {response.status_code}: that is no page")
    return times


def cost(client: Client, page: Page, rounds: int = ROUNDS) -> Cost:
    fetch(client, page.url)  # what was just written is read, checked and marked once
    each = [fetch(client, page.url) for _ in range(rounds)]
    return Cost(
        median(sum(times) for times in each),
        median(max(times) for times in each),
        max(len(times) for times in each),
    )


def statements_on_small_tables(client: Client) -> dict[str, int]:
    """The most of each kind of page."""
    most: dict[str, int] = {}
    for page in pages():
        if "p=" not in page.url:  # there may be no such page
            most[page.kind] = max(most.get(page.kind, 0), cost(client, page, 1).statements)
    return most


def measure(client: Client, most: dict[str, int]) -> list[str]:
    """Prints a line for each page; returns what is too much."""
    too_much = []
    for page in pages():
        found = cost(client, page)
        print(
            f"{page.name:<60} {found.sql:8.1f} ms   slowest {found.slowest:8.1f} ms"
            f"   {found.statements:2} statements{'' if page.has_target else '   (no target)'}",
            flush=True,
        )
        if page.has_target and found.sql > MOST_MS:
            too_much.append(f"{page.name}: {found.sql:.0f} ms of SQL")
        if found.statements > most[page.kind]:
            too_much.append(f"{page.name}: {found.statements} statements, not {most[page.kind]}")
    return too_much


def main() -> None:
    call_command("migrate", verbosity=0)
    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    fill(FEW, in_the_last_day=FEW // 3)
    most = statements_on_small_tables(client)
    too_much = []
    for in_the_last_day in (EXECUTIONS // 90, EXECUTIONS * 3 // 10):
        took = seconds(lambda last=in_the_last_day: fill(EXECUTIONS, in_the_last_day=last))  # type: ignore[misc]
        show("executions, in the last day", f"{EXECUTIONS:,}, {in_the_last_day:,}")
        show("seconds to write all this", f"{took:.0f}")
        too_much += measure(client, most)
    if too_much:
        raise SystemExit("\n".join(["Too much:", *too_much]))


if __name__ == "__main__":
    main()
