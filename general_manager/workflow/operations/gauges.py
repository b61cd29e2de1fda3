"""What the metrics mean: those that a process counts, and those that a scrape reads."""

from typing import Final

COUNTERS: Final = {
    "events_published": "Events accepted by a registry.",
    "deliveries": "Outcomes of deliveries: delivered, failed (will be retried), dead.",
    "executions": "States that executions entered.",
    "schedule_slots": "Slots of schedules: started, skipped (an execution was active), missed.",
    "signals": "Signals that executions accepted.",
    "sagas_undone": "Sagas that were undone: completely, or incomplete (an undo failed for good).",
    "delivery_latency_seconds": "From publishing an event to the end of its handler.",
    "execution_duration_seconds": (
        "From the first start of an execution to its end, waits included."
    ),
}
"""Counted in each process."""

GAUGES: Final = {
    "up": "1 if the database could be queried, else 0.",
    "outbox_undelivered": "Undelivered events; 10001 means more.",
    "outbox_claimed": "Undelivered events that a worker has claimed; 10001 means more.",
    "outbox_oldest_seconds": "Age of the oldest undelivered event.",
    "dead_letters": "Deliveries that failed for good; 10001 means more.",
    "executions_active": "Active executions, by state; 10001 means more.",
    "executions_late": "Due executions that no worker has picked up.",
    "ends_late": "Ended executions whose parent was not told, or whose children go on.",
    "deliveries_long": "Deliveries that run longer than WORKFLOW_DELIVERY_RUNNING_TIMEOUT_SECONDS.",
    "beat_tick_age_seconds": "Time since Beat's last tick; absent if there was none.",
    "schedules_late": "Schedules with a slot that is due and has not started.",
    "schedules_unregistered": "Schedules that no running process registers.",
    "lanes": "Keys with undelivered events in order; 10001 means more.",
    "lanes_blocked": "Lanes that a dead letter blocks.",
    "late_items": "Events of the last day queued by a drain, not by their publisher.",
    "limit_lines": "Keys of limits with executions in line; 10001 means more.",
    "limit_waiting": "Executions in line for a slot; 10001 means more.",
    "limit_lines_standing": "Lines in which nobody got a slot for an hour.",
    "pauses": "Executions or deliveries that a pause has parked; 10001 means more.",
    "workers": "Workers with a recent heartbeat.",
    "oldest_transaction_seconds": "Age of the oldest open transaction; PostgreSQL only.",
    "dead_rows": "Dead rows of a table, by the server's estimate; PostgreSQL only.",
}
"""Read from each database at a scrape; the label ``database`` names it."""
MORE_LABELS: Final = {
    "executions_active": ("state",),
    "dead_rows": ("table",),
    "pauses": ("kind", "name"),
}
