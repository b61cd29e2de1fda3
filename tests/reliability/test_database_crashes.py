"""PostgreSQL is killed at once, again and again, under load: what was acknowledged stays.

No delivery and no atomic step waits for the disk here, so each crash loses commits.
"""

import json
from collections import Counter

from tests.servers import wait_until
from tests.sites import FAR_TOO_LONG

ACTIVE = "WorkflowExecutionRecord.objects.filter(state__in=['pending', 'running']).count()"
UNDELIVERED = "WorkflowOutbox.objects.filter(available_at__isnull=False).count()"
ROWS = (
    "{'tags': list(Tag.objects.values_list('name', 'pk')),"
    " 'events': list(WorkflowEventRecord.objects.values_list('event_id', flat=True)),"
    " 'deliveries': list(WorkflowDeliveryAttempt.objects.values_list("
    "'outbox__event__event_id', 'status', 'first_failed_at')),"
    " 'executions': list(WorkflowExecutionRecord.objects.values_list("
    "'correlation_id', 'state', 'output_data', 'error'))}"
)
BETWEEN_CRASHES = 60


def test_k1_k2_e1_e2_e4_x4_x5_nothing_acknowledged_is_lost_and_every_effect_happens_once(
    open_site, postgres
):
    site = open_site(postgres=postgres.uri, settings="tests.reliability.crashed")
    for _ in range(2):
        site.worker()
    site.beat()
    client = site.start("client", "tests.reliability.acknowledging")
    file = site.folder / "marks" / "acknowledged"

    def acknowledged():
        return file.read_text().splitlines() if file.exists() else []

    def wait_for_more():
        goal = len(acknowledged()) + BETWEEN_CRASHES
        wait_until(lambda: len(acknowledged()) > goal, "the client", seconds=FAR_TOO_LONG)

    for crash in (postgres.crash, postgres.kill, postgres.crash):
        wait_for_more()
        crash()
        postgres.start()
    wait_for_more()
    site.mark("enough")
    assert client.wait(timeout=FAR_TOO_LONG) == 0, site.logs()
    site.until(UNDELIVERED, 0)
    site.until(ACTIVE, 0)

    left, facts = site.ask(ROWS), [json.loads(line) for line in acknowledged()]
    published = {event for what, event, *_ in facts if what == "published"}
    assert published <= set(left["events"])
    assert Counter(map(tuple, left["deliveries"])) == {
        (event, "completed", None): 1 for event in left["events"]
    }
    tags = Counter(name for name, _ in left["tags"])
    assert {name: tags[name] for name in left["events"]} == dict.fromkeys(left["events"], 1)

    executions = {key: (state, output, error) for key, state, output, error in left["executions"]}
    assert len(executions) == len(left["executions"]), "one for each correlation id"
    assert {str(number) for what, number, *_ in facts if what == "started"} <= executions.keys()
    in_doubt = {key for key, (state, _, error) in executions.items()
                if state == "failed" and "may have happened" in error}  # fmt: skip
    done = {key for key, (state, *_) in executions.items() if state == "completed"}
    assert done | in_doubt == executions.keys()
    halves = {key: (tags[f"reserved {key}"], tags[f"confirmed {key}"]) for key in done}
    assert halves == dict.fromkeys(done, (1, 1)), site.logs()
    keys = dict(left["tags"])
    assert all(executions[key][1] == {"reservation": keys[f"reserved {key}"]} for key in done)
    seen = [(str(number), output) for what, number, *more in facts if what == "completed"
            for output in more]  # fmt: skip
    assert seen, "the client has seen none completed"
    assert [(key, output) for key, output in seen if executions[key][1] != output] == []

    world = Counter((site.folder / "marks" / "outside").read_text().splitlines())
    charged = {line: count for line, count in world.items() if line.startswith("charged")}
    assert set(charged.values()) == {1}
    assert {f"charged {key}" for key in done} <= charged.keys()
    assert {f"called {event}" for event in left["events"]} <= world.keys()
