"""The floor: the same guarantees in as little SQL as we can think of, by hand, with psycopg.

Its tables are the project's own. What it leaves out is everything but guarantees: registrations,
predicates, retries, observers, Django.
"""

import json
from typing import Any
from uuid import uuid4

import psycopg

EVENT = "general_manager_workfloweventrecord"
OUTBOX = "general_manager_workflowoutbox"
DELIVERY = "general_manager_workflowdeliveryattempt"
EXECUTION = "general_manager_workflowexecutionrecord"

PUBLISH_EVENT = f"""INSERT INTO {EVENT} (event_id, event_type, event_name, payload, metadata)
    VALUES (%s, %s, %s, %s, '{{}}') ON CONFLICT DO NOTHING RETURNING id"""
PUBLISH_ENTRY = f"INSERT INTO {OUTBOX} (event_id, expected_registrations) VALUES (%s, '[]')"
CLAIM = f"""WITH due AS (SELECT id FROM {OUTBOX} WHERE available_at <= now() ORDER BY available_at
    LIMIT %s FOR UPDATE SKIP LOCKED) UPDATE {OUTBOX} o SET status = 'claimed', claim_token = %s,
    available_at = now() + interval '300 s', started = true FROM due, {EVENT} e
    WHERE o.id = due.id AND e.id = o.event_id RETURNING o.id, e.event_id, e.payload,
    (SELECT set_config('synchronous_commit', 'off', true))"""
START = f"""INSERT INTO {EXECUTION} (execution_id, workflow_id, version, state, handler_path,
    input_data, metadata, correlation_id, dedup_key, wake_at)
    VALUES (%s, 'w', '1', 'pending', 'x', %s, '{{}}', %s, %s, now() + interval '10 s')
    ON CONFLICT DO NOTHING"""
DELIVERED = f"""INSERT INTO {DELIVERY} (outbox_id, registration_id, status, claim_token)
    SELECT id, 'r', 'completed', %s FROM {OUTBOX}
    WHERE id = %s AND claim_token = %s AND status = 'claimed' FOR UPDATE ON CONFLICT DO NOTHING"""
SETTLE = f"""UPDATE {OUTBOX} SET status = 'processed', claim_token = NULL, available_at = NULL
    WHERE claim_token = %s"""
TAKE = f"""UPDATE {EXECUTION} SET state = 'running', claim_token = %s,
    wake_at = now() + interval '60 s', started_at = now(), runs = runs + 1
    WHERE execution_id = %s AND state = 'pending' RETURNING input_data,
    (SELECT set_config('synchronous_commit', 'off', true))"""
DONE = f"""UPDATE {EXECUTION} SET state = 'completed', output_data = %s, ended_at = now(),
    wake_at = NULL, claim_token = NULL WHERE claim_token = %s AND state = 'running'"""


class Floor:
    def __init__(self, uri: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(uri, autocommit=True)

    def publish(self, event_id: str, payload: dict[str, Any]) -> None:
        with self._connection.transaction():
            values = (event_id, "shop.order.paid", "order_paid", json.dumps(payload))
            row = self._connection.execute(PUBLISH_EVENT, values).fetchone()
            if row is not None:
                self._connection.execute(PUBLISH_ENTRY, (row[0],))

    def deliver_and_run(self, chunk: int) -> int:
        """Everything that is due, from claim to completed execution."""
        total = 0
        while True:
            token = uuid4().hex
            rows = self._connection.execute(CLAIM, (chunk, token)).fetchall()
            if not rows:
                return total
            started = [self._deliver(token, *row[:3]) for row in rows]
            self._connection.execute(SETTLE, (token,))
            for execution_id in started:
                self._run(execution_id)
            total += len(rows)

    def deliver(self, chunk: int) -> int:
        """Everything that is due to a handler that does nothing, from claim to settled."""
        total = 0
        while True:
            token = uuid4().hex
            rows = self._connection.execute(CLAIM, (chunk, token)).fetchall()
            if not rows:
                return total
            for entry, *_ in rows:
                with self._connection.transaction():
                    self._connection.execute(DELIVERED, (token, entry, token))
            self._connection.execute(SETTLE, (token,))
            total += len(rows)

    def _deliver(self, token: str, entry: int, event_id: str, payload: dict[str, Any]) -> str:
        execution_id = str(uuid4())
        with self._connection.transaction():
            values = (execution_id, json.dumps(payload), event_id, f"w{event_id}")
            self._connection.execute(START, values)
            self._connection.execute(DELIVERED, (token, entry, token))
        return execution_id

    def _run(self, execution_id: str) -> None:
        token = uuid4().hex
        if self._connection.execute(TAKE, (token, execution_id)).fetchone() is not None:
            self._connection.execute(DONE, (json.dumps({"ok": True}), token))

    def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    def close(self) -> None:
        self._connection.close()
