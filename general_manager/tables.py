"""What a database says of a model's table: each question is asked once of each table."""

from typing import Final

from django.db import connections
from django.db.models import Model

_answers: dict[tuple[str, str, str], bool] = {}
_IS_VIEW: Final = """
    SELECT relkind IN ('v', 'm') FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)
"""

_MAY_UPDATE: Final = """
    SELECT has_table_privilege(found.oid, 'UPDATE') AND NOT relrowsecurity
    FROM pg_catalog.pg_class AS found WHERE oid = to_regclass(%s)
"""
_HAS_POLICIES: Final = "SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)"

RETURNS_UPDATED: Final = """
    SELECT relkind = 'r'
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite WHERE ev_class = found.oid)
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = found.oid)
    FROM pg_catalog.pg_class AS found WHERE oid = to_regclass(%s)
"""
"""Whether it is one table of PostgreSQL's, without rules, which can refuse RETURNING."""

RETURNS_REMOVED: Final = """
    SELECT relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_rewrite WHERE ev_class = found.oid AND ev_type = '4')
    FROM pg_catalog.pg_class AS found WHERE oid = to_regclass(%s)
"""
"""Whether it is a table of PostgreSQL's without rules for a DELETE."""


def asked(question: str, model: type[Model], using: str, *, otherwise: bool = False) -> bool:
    """PostgreSQL's answer to *question*; *otherwise* if it does not know the table."""
    connection = connections[using]
    name = (question, using, model._meta.db_table)
    if name not in _answers:
        with connection.cursor() as cursor:
            cursor.execute(question, [connection.ops.quote_name(name[-1])])
            [_answers[name]] = cursor.fetchone() or [otherwise]
    return _answers[name]


def ask_again(question: str, model: type[Model], using: str) -> None:
    """Forget the answer: the table is another one now."""
    _answers.pop((question, using, model._meta.db_table), None)


def forget_answers() -> None:
    """Forget all, for a process that takes another role or other tables."""
    _answers.clear()


def is_view(model: type[Model], using: str) -> bool:
    """Whether *model* reads a database view: only an unmanaged model can."""
    if model._meta.managed:
        return False
    if connections[using].vendor == "postgresql":  # whose views may be in any schema
        return asked(_IS_VIEW, model, using)
    name = (_IS_VIEW, using, model._meta.db_table)
    if name not in _answers:
        connection = connections[using]
        with connection.cursor() as cursor:
            tables = connection.introspection.get_table_list(cursor)
        _answers[name] = any(one.name == name[-1] and one.type == "v" for one in tables)
    return _answers[name]


def may_update(model: type[Model], using: str) -> bool:
    """Whether this role may change rows of *model*, which PostgreSQL asks of who locks.

    A role that may only read and delete, or whose policies say so, deletes without a lock.
    """
    if connections[using].vendor != "postgresql":
        return True
    return asked(_MAY_UPDATE, model, using, otherwise=True)


def may_hide_rows(model: type[Model], using: str) -> bool:
    """Whether a writer may be unable to read its row: in a view, or because of a policy."""
    if is_view(model, using):
        return True
    return connections[using].vendor == "postgresql" and asked(_HAS_POLICIES, model, using)
