"""Ten effects each under kills: a workflow of ten steps, and plain Celery tasks beside it.

Run with ``python -m benchmarks.chaos``; it takes a quarter of an hour. Redis and PostgreSQL are
started from their wheels. Each way has its own database, broker, workers and kills. A row counts
what is there in the end: effects that are missing, and effects that happened again.
"""

import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.reliability.chaos import GAVE_UP, SETTINGS, Chaos
from tests.servers import Redis, postgres_uri
from tests.sites import Site

COUNT = 400
VISIBILITY_SECONDS = 10
"""What a dead worker did not acknowledge comes back after so long; by default after an hour."""

QUIET_SECONDS = 125
"""So long without an effect, and all that was to come back has: a worker looks every 100 seconds
for what others did not acknowledge."""

EFFECTS = "tests.acceptance.production.shop.effects"
TASKS = "tests.acceptance.production.shop.tasks"
WAYS = {
    "workflow": f"from {EFFECTS} import start_all\nstart_all(effects={COUNT}, charges=0)",
    **{
        task: f"from {TASKS} import {task}\nfor n in range({COUNT}): {task}.delay({{'n': n}})"
        for task in ("plain", "acknowledged_late", "in_one_transaction")
    },
}


def wait_until_quiet(chaos: Chaos) -> None:
    deadline = time.monotonic() + 4 * QUIET_SECONDS
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        if (now := len(chaos.outside())) != seen:
            seen, quiet_since = now, time.monotonic()
        if time.monotonic() > deadline:
            raise SystemExit("The work does not end: the numbers mean nothing")
        time.sleep(0.5)


def off(found: Counter[str], parity: int) -> tuple[int, int]:
    """How many effects are missing, and how many happened once more than they should."""
    wanted = {f"{n}-{number}" for n in range(COUNT) for number in range(parity, 10, 2)}
    return len(wanted - found.keys()), sum(found[name] - 1 for name in wanted & found.keys())


def measure(way: str) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = Redis(folder)
        stack.callback(redis.close)
        site = Site(folder, redis, postgres=postgres_uri(), settings=SETTINGS)
        stack.callback(site.stop)
        site.environment["TEST_VISIBILITY_SECONDS"] = str(VISIBILITY_SECONDS)
        chaos = Chaos(site)
        site.web(WAYS[way])
        with suppress(TimeoutError):  # the work may be lost before the last disaster
            chaos.rage(patience=QUIET_SECONDS)
        wait_until_quiet(chaos)
        chaos.end()
        outside = Counter(chaos.outside())
        inside = Counter(site.ask("list(Tag.objects.values_list('name', flat=True))"))
        done = sum(line.endswith("done") for line in outside)
        if way == "workflow":
            done = site.ask("WorkflowExecutionRecord.objects.filter(state='completed').count()")
    missing, extra = off(inside, 0)
    lost, repeated = off(outside, 1)
    disasters = chaos.happened.total() - chaos.happened[GAVE_UP]
    print(
        f"{way:<20} {disasters:>9} {COUNT - done:>8}"
        f" {missing:>12} {extra:>6} {lost:>11} {repeated:>6}",
        flush=True,
    )


def main() -> None:
    print(f"{COUNT} of each; {COUNT * 5} effects in the database, {COUNT * 5} outside")
    print(f"{'':<20} disasters not done   db: missing  again out: missing  again", flush=True)
    for way in WAYS:
        measure(way)


if __name__ == "__main__":
    main()
