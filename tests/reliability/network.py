"""A site whose network fails: between its processes and the database, and the broker.

What is published is known, every effect can be counted, and no process is killed: whatever is
charged with a death was charged wrongly. `python -m tests.reliability.network --minutes 10
[--mariadb]` tells what happened in so long a time.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.reliability.proxy import BEFORE, FAULTS, Proxy
from tests.servers import postgres_uri, start_broker
from tests.sites import Site

SETTINGS = "tests.reliability.networked"
BATCH = 5
EVERY_SECONDS = 2.0
ONE_OF_DATABASE = 400
"""So many requests to the database go well for each that does not."""
ONE_OF_BROKER = 200
IDLE_CUT_SECONDS = 10.0
OUTAGE_SECONDS = 1.5
OUTAGE_EVERY = 25.0
LEFT = (
    "(WorkflowOutbox.objects.exclude(status='processed').count(), "
    "WorkflowExecutionRecord.objects.filter(state__in=['pending', 'running', 'waiting']).count())"
)


class Network:
    """Two workers and Beat behind proxies that fail, and what they left when all work is done."""

    def __init__(self, folder: Path, stack: ExitStack, *, mariadb: bool = False) -> None:
        self.published = 0
        broker = start_broker(folder)
        stack.callback(broker.close)
        uri = None if mariadb else os.environ.get("TEST_POSTGRES_URI") or postgres_uri()
        self.site = Site(folder, broker, postgres=uri, mariadb=mariadb, settings=SETTINGS)
        stack.callback(self.site.stop)
        redis = urlsplit(broker.url)
        self.database = Proxy(_server(uri), pause=1.0)
        self.broker = Proxy((str(redis.hostname), int(redis.port or 6379)), pause=1.0)
        stack.callback(self.database.close)
        stack.callback(self.broker.close)
        direct = self.site.environment
        self.site.environment = {
            **direct,
            "TEST_BROKER": f"redis://127.0.0.1:{self.broker.port}/0",
            "TEST_MARIADB_PORT": str(self.database.port),
        }
        if uri is not None:
            self.site.environment["TEST_POSTGRES_URI"] = _through(uri, self.database.port)
        self.workers = [self.site.kept_worker(), self.site.kept_worker()]
        self.site.beat()
        self.site.environment = direct  # who publishes and who counts can rely on the network

    def rage(self, seconds: float) -> None:
        """Publish, and have the network fail, for so long; then let all work come to its end."""
        end = time.monotonic() + seconds
        next_cut, next_outage = (time.monotonic() + one for one in (IDLE_CUT_SECONDS, OUTAGE_EVERY))
        self.database.fail(lambda: _sometimes(ONE_OF_DATABASE))
        self.broker.fail(lambda: _sometimes(ONE_OF_BROKER))
        while (now := time.monotonic()) < end:
            self._publish()
            if now > next_cut:
                self.database.cut_all()
                self.broker.cut_all()
                self.database.happened.append("all cut")
                next_cut = now + IDLE_CUT_SECONDS
            if now > next_outage:
                self._go_away()
                next_outage = now + OUTAGE_EVERY
            time.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - now)))
        self.database.fail(None)
        self.broker.fail(None)
        self.site.until(LEFT, [0, 0])

    def _publish(self) -> None:
        ids = range(self.published, self.published + BATCH)
        self.published += BATCH
        self.site.web(
            "from general_manager.workflow import *\n"
            "get_event_registry().publish_many(WorkflowEvent(str(n), 'a.b', {}, "
            f"event_name='start_effects') for n in range({ids.start}, {ids.stop}))"
        )

    def _go_away(self) -> None:
        self.database.fail(lambda: BEFORE)
        self.database.cut_all()
        time.sleep(OUTAGE_SECONDS)
        self.database.happened.append("away")
        self.database.fail(lambda: _sometimes(ONE_OF_DATABASE))

    def report(self) -> dict[str, Any]:
        """What was done how often, and what was charged to whom."""
        found = self.site.ask(
            "{'tags': list(Tag.objects.values_list('name', flat=True)),"
            " 'executions': list(WorkflowExecutionRecord.objects.values_list("
            "'workflow_id', 'state').annotate(n=models.Count('pk')).order_by()),"
            " 'deliveries': list(WorkflowDeliveryAttempt.objects.values_list("
            "'status').annotate(n=models.Count('pk')).order_by()),"
            " 'history': list(WorkflowHistory.objects.values_list("
            "'kind').annotate(n=models.Count('pk')).order_by()),"
            " 'failed_deliveries': WorkflowDeliveryAttempt.objects.filter("
            "models.Q(first_failed_at__isnull=False) | models.Q(crashes__gt=0)).count(),"
            " 'errors': list(WorkflowExecutionRecord.objects.filter(state='failed')"
            ".values_list('error', flat=True))}"
        )
        world = self.site.folder / "marks" / "outside"
        outside = Counter(world.read_text().splitlines() if world.exists() else [])
        tags = Counter(found.pop("tags"))
        numbers = range(self.published)
        inside = {f"event {n}" for n in numbers}
        inside |= {f"{n}-{number}" for n in numbers for number in range(0, 10, 2)}
        told = {f"told {n}" for n in numbers}
        told |= {f"{n}-{number}" for n in numbers for number in range(1, 10, 2)}
        charged = {f"charge {n}-{number}" for n in numbers for number in range(10)}
        return {
            "events": self.published,
            "effects in the database": len(inside),
            "lost in the database": len(inside - tags.keys()),
            "doubled in the database": sum(count - 1 for count in tags.values()),
            "effects outside": len(told) + len(charged),
            "lost outside": len((told | charged) - outside.keys()),
            "repeated outside": sum(outside[one] - 1 for one in told if one in outside),
            "charged twice": sum(outside[one] - 1 for one in charged if one in outside),
            "faults of the database's network": dict(Counter(self.database.happened)),
            "faults of the broker's network": dict(Counter(self.broker.happened)),
            **found,
        }


def _sometimes(one_of: int) -> str | None:
    return random.choice(FAULTS) if random.random() < 1 / one_of else None


def _server(uri: str | None) -> str | tuple[str, int]:
    if uri is None:
        return os.environ.get("TEST_MARIADB_HOST", "127.0.0.1"), 3306
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(uri)
    host, port = str(parts.get("host", "127.0.0.1")), int(parts.get("port") or 5432)
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def _through(uri: str, port: int) -> str:
    from psycopg.conninfo import make_conninfo

    return make_conninfo(uri, host="127.0.0.1", port=port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--mariadb", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        network = Network(folder, stack, mariadb=options.mariadb)
        network.rage(options.minutes * 60)
        print(json.dumps(network.report(), indent=2))  # noqa: T201 - a script


if __name__ == "__main__":
    main()
