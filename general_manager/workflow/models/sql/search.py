"""How executions are found by their attributes: a condition for each database, and indexes.

PostgreSQL has an index for containment in JSON. The others compare row by row.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.db import connections
from django.db.models import CharField, F, FloatField, Func, IntegerField, Q, TextField, Value
from django.db.models.lookups import Exact, In

MODEL: Final = "workflowexecutionrecord"
INDEXES: Final = {
    # Only rows with attributes: the others cost nothing. Without the list of pending entries, which
    # every search would go through.
    "gm_execution_attributes": (
        "USING gin (attributes jsonb_path_ops) WITH (fastupdate = off) WHERE attributes IS NOT NULL"
    ),
    # Among the latest rows a rare state is hard to find. Written only when an execution ends so.
    "gm_execution_unsuccessful": "(state, id) WHERE state IN ('failed', 'cancelled')",
}


def add_indexes(apps: Any, schema_editor: Any) -> None:
    """For `RunPython`: indexes that only PostgreSQL can have."""
    if schema_editor.connection.vendor != "postgresql":
        return
    quote = schema_editor.quote_name
    table = quote(apps.get_model("general_manager", MODEL)._meta.db_table)
    for name, what in INDEXES.items():
        schema_editor.execute(f"CREATE INDEX {quote(name)} ON {table} {what}")


def has_attributes(wanted: Mapping[str, Any], using: str) -> Q:
    """The condition that the column has each of *wanted*: flat JSON values, compared by type."""
    if connections[using].vendor != "sqlite":
        return Q(attributes__contains=dict(wanted))
    found = Q()
    for name, value in wanted.items():
        found &= _is_in_sqlite(name, value)
    return found


def _is_in_sqlite(name: str, value: Any) -> Q:
    """SQLite has no containment, and takes the JSON ``true`` for the number 1."""
    path = Value(f'$."{name}"')
    kind = Func(F("attributes"), path, function="JSON_TYPE", output_field=CharField())
    if value is None or isinstance(value, bool):
        return Q(Exact(kind, {None: "null", True: "true", False: "false"}[value]))
    numbers = {int: IntegerField(), float: FloatField()}
    field: Any = numbers.get(type(value), TextField())
    kinds = ["text"] if isinstance(value, str) else ["integer", "real"]
    found = Func(F("attributes"), path, function="JSON_EXTRACT", output_field=field)
    return Q(In(kind, kinds)) & Q(Exact(found, value))
