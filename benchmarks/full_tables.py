"""Tables as they look after three months of work, written by the database itself.

What planners guess wrong is in them: states, workflows and events that are crowded in one place.
"""

from typing import Final

from django.db import connection

from benchmarks.floor import DELIVERY, EVENT, EXECUTION, OUTBOX

STEP: Final = "general_manager_workflowstep"
HISTORY: Final = "general_manager_workflowhistory"
HEARTBEAT: Final = "general_manager_workflowheartbeat"
TABLES: Final = (EVENT, OUTBOX, DELIVERY, EXECUTION, STEP, HISTORY, HEARTBEAT)

DAYS: Final = 90
MANY_STEPS: Final = 50

# One row for each of %(count)s numbers, oldest first. A place is how far along it is, from 0 to 1.
# In one place each, as after an outage or a big tidying up: half of the failures, all that was
# cancelled, a rare workflow, all that waits. One workflow has not been started for long, another
# is new.
NUMBERS: Final = """CREATE TEMPORARY TABLE numbers AS
SELECT n, at, ms, noise, CASE
        WHEN n > %(count)s - 300 THEN 'pending'
        WHEN n > %(count)s - 400 THEN 'running'
        WHEN place BETWEEN 0.600 AND 0.690 AND dice < 111 THEN 'waiting'
        WHEN place BETWEEN 0.300 AND 0.310 OR dice > 989 THEN 'failed'
        WHEN place BETWEEN 0.100 AND 0.105 THEN 'cancelled'
        ELSE 'completed'
    END AS state, CASE
        WHEN place BETWEEN 0.0500 AND 0.0502 THEN 'year.close'
        WHEN dice < 200 THEN 'invoice.send'
        WHEN dice < 300 AND place < 0.65 THEN 'customer.welcome'
        WHEN dice < 400 AND place > 0.90 THEN 'order.refund'
        ELSE 'order.fulfil'
    END AS workflow, place BETWEEN 0.0500 AND 0.0502 AS is_rare
FROM (
    SELECT n, place, dice, at, md5(n::text) AS noise,
        lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms
    FROM (
        SELECT n, n / %(count)s::float AS place, abs(hashint4(n) %% 1000) AS dice, now() - CASE
            WHEN n > %(old)s
            THEN interval '1 day' * (%(count)s - n) / (%(count)s - %(old)s)::float
            ELSE interval '1 day' + interval '1 day' * %(days)s * (%(old)s - n) / %(old)s::float
        END AS at
        FROM generate_series(1, %(count)s) n
    ) placed
) timed ORDER BY n"""

ID: Final = """substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7' || substr(noise, 1, 3)
    || '-8' || substr(noise, 4, 3) || '-' || substr(noise, 7, 12)"""
TRACE: Final = r"""repeat('  File "shop/orders.py", line ' || n || E', in pay\n', 40)"""

EVENTS: Final = f"""INSERT INTO {EVENT} (id, event_id, event_type, event_name, source, payload,
    metadata, published_at)
SELECT n, 'event-' || noise, CASE WHEN is_rare THEN 'shop.year.closed'
        ELSE 'shop.' || workflow || '.asked' END,
    'manager_updated', 'shop', jsonb_build_object('manager', 'Order', 'identification',
        jsonb_build_object('id', n), 'changes', jsonb_build_object('status',
        jsonb_build_object('old', 'draft', 'new', 'paid'), 'note', repeat(noise, 5))), '{{}}', at
FROM numbers"""

ENTRIES: Final = f"""INSERT INTO {OUTBOX} (id, event_id, expected_registrations, status,
    available_at, undelivered_since, claimed_by, claimed_at, settled_at)
SELECT n, n, '["order_paid", "order_seen"]', CASE WHEN n > %(count)s - 1900 THEN 'pending'
        WHEN n > %(count)s - 2000 THEN 'claimed' WHEN {{is_dead}} THEN 'dead_letter'
        ELSE 'processed' END,
    CASE WHEN n > %(count)s - 2000 THEN now() + interval '1 s' * (%(count)s - n - 1500) END,
    at, 'worker-1@shop', at, CASE WHEN n <= %(count)s - 2000 THEN at + interval '1 s' END
FROM numbers"""

DELIVERIES: Final = f"""INSERT INTO {DELIVERY} (outbox_id, registration_id, status, started_at,
    finished_at, first_failed_at, error_class, error, traceback)
SELECT n, handler, CASE WHEN is_dead THEN 'dead_letter' WHEN n > %(count)s - 1950 THEN 'running'
        ELSE 'completed' END,
    at, CASE WHEN n <= %(count)s - 1950 THEN at END, CASE WHEN is_dead THEN at END,
    CASE WHEN is_dead THEN 'shop.Refused' ELSE '' END,
    CASE WHEN is_dead THEN 'the bank said no to ' || n ELSE '' END,
    CASE WHEN is_dead THEN {TRACE} ELSE '' END
FROM (SELECT *, {{is_dead}} AND handler = 'order_paid' AS is_dead FROM numbers
    CROSS JOIN (VALUES ('order_paid'), ('order_seen')) handlers (handler)
    WHERE n <= %(count)s - 1900) each_of_them ORDER BY n"""

EXECUTIONS: Final = f"""INSERT INTO {EXECUTION} (id, execution_id, workflow_id, version, state,
    handler_path, input_data, output_data, metadata, correlation_id, dedup_key, caused_by, wake_at,
    ready, claimed_by, waiting_for, runs, error, traceback, created_at, started_at, ended_at)
SELECT n, {ID}, workflow, '1', state, 'shop.workflows.run',
    jsonb_build_object('order', n, 'note', repeat(noise, 5)),
    CASE WHEN state = 'completed' THEN jsonb_build_object('paid', repeat(noise, 5)) END, '{{}}',
    CASE WHEN n %% 10 > 0 THEN 'order-' || n / 3 END,
    CASE WHEN state NOT IN ('failed', 'cancelled') THEN md5('key' || n) END, 'event-' || noise,
    CASE WHEN state = 'waiting' AND n %% 2 = 0 THEN now() + interval '1 day'
        WHEN state = 'running' THEN now() + interval '1 minute'
        WHEN state = 'pending' THEN now() + interval '1 s' * (n %% 200 - 130) END,
    false, 'worker-1@shop', CASE WHEN state = 'waiting' AND n %% 2 = 1 THEN 'approval' END, 1,
    CASE WHEN state = 'failed' THEN 'shop.Refused: the bank said no to ' || n END,
    CASE WHEN state = 'failed' THEN {TRACE} ELSE '' END,
    at, CASE WHEN state <> 'pending' THEN at END,
    CASE WHEN state IN ('completed', 'failed', 'cancelled')
        THEN at + (now() - at) * (n %% 100) / 20000 END
FROM numbers"""

STEPS: Final = f"""INSERT INTO {STEP} (execution_id, name, status, result, answerable, started_at,
    finished_at)
SELECT n, 'step-' || number, CASE WHEN is_open THEN 'open' ELSE 'done' END,
    jsonb_build_object('note', repeat(noise, 3)), is_open, at, CASE WHEN NOT is_open THEN at END
FROM (SELECT *, state = 'waiting' AND number = 3 AS is_open FROM numbers
    CROSS JOIN LATERAL generate_series(
        1, CASE WHEN n = %(count)s / 2 THEN {MANY_STEPS} ELSE 3 END) number) each_of_them
ORDER BY n"""

NOTES: Final = f"""INSERT INTO {HISTORY} (execution_id, kind, at, by, detail)
SELECT n, 'attempt_failed', at, 'worker-1@shop', 'shop.Refused' FROM numbers
WHERE state = 'failed'"""
BEATS: Final = f"""INSERT INTO {HEARTBEAT} (duty, at, by)
VALUES ('tick', now(), 'beat@shop'), ('worker:worker-1@shop', now(), 'worker-1@shop')"""


def fill(count: int, *, in_the_last_day: int) -> None:
    """*count* executions and events, twice as many deliveries, three times as many steps.

    Nothing has been vacuumed yet, which is the worst case for reading an index only.
    """
    first_dead = count // 3
    is_dead = f"n BETWEEN {first_dead} AND {first_dead + min(500, count // 10) - 1}"
    values = {"count": count, "old": count - in_the_last_day, "days": DAYS - 1}
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY CASCADE")
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        cursor.execute("SET session_replication_role = replica")  # foreign keys are right
        cursor.execute(NUMBERS, values)
        for sql in (EVENTS, ENTRIES, DELIVERIES, EXECUTIONS, STEPS, NOTES, BEATS):
            cursor.execute(sql.replace("{is_dead}", is_dead), values)
        cursor.execute("DROP TABLE numbers")
        cursor.execute("RESET session_replication_role")
        cursor.execute("ANALYZE")
        cursor.execute("CHECKPOINT")  # or pages would be timed beside the writing of all this
