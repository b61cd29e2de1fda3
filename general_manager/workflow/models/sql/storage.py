"""PostgreSQL's storage options for the tables whose rows change several times."""

from typing import Any, Final

HOT: Final = ("workflowoutbox", "workflowexecutionrecord", "workflowdeliveryattempt")
STORAGE_OPTIONS: Final = {
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_analyze_scale_factor": 0.05,
    "autovacuum_vacuum_cost_delay": 0,
}
"""By default a table is vacuumed when a fifth of its rows is dead: every claim would read those."""


def set_storage(apps: Any, schema_editor: Any) -> None:
    """For `RunPython`: set the options, on PostgreSQL only; the project may set others later."""
    if schema_editor.connection.vendor != "postgresql":
        return
    options = ", ".join(f"{name} = {value}" for name, value in STORAGE_OPTIONS.items())
    for name in HOT:
        table = schema_editor.quote_name(apps.get_model("general_manager", name)._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} SET ({options})")
