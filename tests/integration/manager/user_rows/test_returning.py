"""Where the UPDATE returns the row as it was and as it is, nothing is read beside it."""

from threading import Event, Thread
from typing import Any

import pytest
from django.db import NotSupportedError, connection, connections, transaction
from django.db.models import F, Manager, Model
from django.db.models.sql.compiler import SQLUpdateCompiler
from django.test.utils import CaptureQueriesContext

from general_manager.manager.signals import pre_data_change
from general_manager.tables import forget_answers
from tests.rowapp.kinds import KINDS
from tests.rowapp.reported import reported, returns_old_values
from tests.testapp.models import Invoice

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
Row: Any = KINDS["AutoKey"].tracked
TABLE = Row._meta.db_table

AGAIN = f"""
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF pg_trigger_depth() = 1 THEN
        UPDATE {TABLE} SET name = NEW.name || ' again' WHERE id = NEW.id;
    END IF; RETURN NULL; END $$;
CREATE TRIGGER again AFTER UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION again();
"""
UPPER = f"""
CREATE FUNCTION upper_case() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.name = upper(NEW.name); RETURN NEW; END $$;
CREATE TRIGGER upper_case BEFORE UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION upper_case();
"""
ELSEWHERE = f"""
CREATE RULE elsewhere AS ON UPDATE TO {TABLE} WHERE NEW.name = 'kept' DO INSTEAD NOTHING
"""


@pytest.fixture(autouse=True)
def _a_server_that_returns_old_values(transactional_db):
    if not returns_old_values():
        pytest.skip("There the row is read before and after the UPDATE")


@pytest.fixture
def sql():
    """Runs statements, and what undoes them at the end."""
    undo = []

    def run(statements, undone):
        undo.append(undone)
        with connection.cursor() as cursor:
            cursor.execute(statements)

    yield run
    with connection.cursor() as cursor:
        for one in undo:
            cursor.execute(one)
    forget_answers()


@pytest.fixture
def row():
    row = Row.objects.create(name="new")
    row.save()  # the table has been looked at
    return row


def save(row, name):
    """Kinds of the statements of a save, and the one change that it reports."""
    row.name = name
    with reported() as changes, CaptureQueriesContext(connection) as captured:
        row.save()
    [change] = changes
    assert change.identification == {"id": row.pk}
    kinds = [one["sql"].split()[0] for one in captured if one["sql"].split()[0] != "SAVEPOINT"]
    return kinds, dict(change.changes)


def test_a_save_that_changes_a_row_is_one_statement_in_a_transaction(row):
    assert save(row, "other") == (["BEGIN", "UPDATE", "COMMIT"], {"name": ("new", "other")})


@pytest.mark.parametrize("sql", ["/* shop */ {}", "{} -- shop", "{} /* shop */"])
def test_a_comment_that_a_wrapper_adds_to_each_statement_changes_no_report(row, sql):
    def comment(execute, statement, *arguments):
        return execute(sql.format(statement), *arguments)

    row.name = "other"
    with connection.execute_wrapper(comment), reported() as changes:
        row.save()
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("update", {"name": ("new", "other")})
    ]
    assert connection.execute_wrappers == []


def test_a_save_that_changes_nothing_is_not_reported(row):
    with reported() as changes:
        row.save()
    assert changes == []


def test_an_expressions_value_is_the_stored_one():
    invoice = Invoice.objects.create(number="1", total=3)
    invoice.total = F("total") + 1
    with reported() as changes:
        invoice.save()
    [(before, after)] = [one.changes["total"] for one in changes]
    assert (before, after) == (3, 4)


def test_what_a_trigger_changes_after_the_update_is_reported(sql, row):
    sql(AGAIN, f"DROP TRIGGER again ON {TABLE}; DROP FUNCTION again")
    kinds, changes = save(row, "other")
    assert changes == {"name": ("new", "other again")}
    assert kinds == ["BEGIN", "UPDATE", "SELECT", "COMMIT"]


def test_a_trigger_that_is_made_while_the_process_lives_is_seen(sql, row):
    assert save(row, "other")[1] == {"name": ("new", "other")}
    sql(AGAIN, f"DROP TRIGGER again ON {TABLE}; DROP FUNCTION again")
    assert save(row, "third")[1] == {"name": ("other", "third again")}


def test_what_a_trigger_changes_before_the_update_is_returned(sql, row):
    sql(UPPER, f"DROP TRIGGER upper_case ON {TABLE}; DROP FUNCTION upper_case")
    row.save()
    kinds, changes = save(row, "other")
    assert changes == {"name": ("NEW", "OTHER")}
    assert kinds == ["BEGIN", "UPDATE", "COMMIT"]


def test_a_table_with_rules_is_updated_as_without_tracking(sql, row):
    sql(ELSEWHERE, f"DROP RULE elsewhere ON {TABLE}")
    forget_answers()  # another process
    kinds, changes = save(row, "other")
    assert changes == {"name": ("new", "other")}
    assert kinds.count("SELECT") == 3  # whether it has rules, and the row twice


def test_a_rule_that_is_made_while_the_process_lives_fails_one_save(sql, row):
    sql(ELSEWHERE, f"DROP RULE elsewhere ON {TABLE}")
    row.name = "other"
    with pytest.raises(NotSupportedError):
        row.save()
    assert save(row, "other")[1] == {"name": ("new", "other")}


def test_a_row_that_is_missing_is_created(row):
    Row.objects.filter(pk=row.pk)._raw_delete("default")
    with reported() as changes:
        row.save()
    assert [one.action for one in changes] == ["create"]


def test_a_row_that_another_transaction_has_just_changed_is_reported_as_that_one_left_it(row):
    began, done = Event(), []

    def change():
        began.set()
        done.append(save(row, "mine"))
        connections.close_all()

    with transaction.atomic():
        Row.objects.filter(pk=row.pk).update(name="theirs")
        thread = Thread(target=change)
        thread.start()
        began.wait(30)
        wait_for_a_lock()
    thread.join(30)
    [(_, changes)] = done
    assert changes == {"name": ("theirs", "mine")}


def wait_for_a_lock():
    with connection.cursor() as cursor:
        for _ in range(3000):
            cursor.execute("SELECT count(*), pg_sleep(0.01) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
    raise AssertionError("Nobody waits for the row")


DJANGO: Any = Model


def own_update(self, *arguments):
    found = DJANGO._do_update(self, *arguments)
    Row.objects.filter(pk=self.pk).update(name=f"{self.name} and more")
    return found


def own_save_table(self, *arguments, **options):
    found = DJANGO._save_table(self, *arguments, **options)
    Row.objects.filter(pk=self.pk).update(name=f"{self.name} and more")
    return found


class OwnManager(Manager[Any]):
    """A base manager that may do anything."""


def test_the_row_is_read_around_an_update_of_the_models_own(row, monkeypatch):
    from general_manager.manager.saving import _around_update

    monkeypatch.setattr(Row, "_do_update", _around_update(own_update))
    assert save(row, "other")[1] == {"name": ("new", "other and more")}


def test_the_row_is_read_around_a_saving_of_tables_of_the_models_own(row, monkeypatch):
    from general_manager.manager.saving import _around_table

    monkeypatch.setattr(Row, "_save_table", _around_table(own_save_table))
    assert save(row, "other")[1] == {"name": ("new", "other and more")}


def test_the_row_is_read_around_the_update_of_a_base_manager_of_the_models_own(row, monkeypatch):
    manager = OwnManager()
    manager.model = Row
    monkeypatch.setitem(vars(Row._meta), "base_manager", manager)
    assert save(row, "other")[0].count("SELECT") == 2


def test_the_row_is_read_first_for_those_who_hear_of_the_change_before_it(row):
    heard = []

    def hear(sender, action, **_):
        heard.append(action)

    pre_data_change.connect(hear, sender=Row)
    try:
        kinds, _ = save(row, "other")
    finally:
        pre_data_change.disconnect(hear, sender=Row)
    assert heard == ["update"]
    assert kinds.count("SELECT") == 2


def test_a_column_that_is_read_through_an_expression_is_reported_as_it_is_read():
    kind = KINDS["Whispered"]
    row = kind.tracked.objects.create(name="ONE")
    row.name = "TWO"
    with reported() as changes:
        row.save()
        row.save()
    assert [one.changes["name"] for one in changes] == [("one", "two")]


def test_a_wrapper_that_updates_another_table_is_left_alone(row):
    def count(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.startswith(f'UPDATE "{TABLE}"'):
            Invoice.objects.update(number="counted")
        return execute(sql, parameters, many, context)

    Invoice.objects.create(number="new")
    with connection.execute_wrapper(count), reported() as changes:
        row.name = "counted"
        row.save()
    assert [one.changes["name"].new for one in changes] == ["counted"]
    assert Invoice.objects.get().number == "counted"


def test_a_backend_that_writes_its_own_updates_has_the_row_read(row, monkeypatch):
    class Commenting(SQLUpdateCompiler):
        def as_sql(self, *arguments: Any, **options: Any) -> Any:
            sql, parameters = super().as_sql(*arguments, **options)
            return f"/* from the web */ {sql}", parameters

    compiler = connection.ops.compiler
    monkeypatch.setattr(
        connection.ops,
        "compiler",
        lambda name: Commenting if name == "SQLUpdateCompiler" else compiler(name),
    )
    row.name = "commented"
    with reported() as changes:
        row.save()
    assert [(one.action, one.changes["name"]) for one in changes] == [
        ("update", ("new", "commented"))
    ]
