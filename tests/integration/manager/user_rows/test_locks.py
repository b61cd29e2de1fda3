"""Our reads take no lock and no privilege that the write does not take."""

from contextlib import contextmanager
from threading import Barrier, Thread
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from general_manager.tables import forget_answers
from tests.integration.manager.user_rows.test_manager_rows import desk_of
from tests.rowapp.kinds import KINDS, Kind, model, text
from tests.rowapp.reported import brief, reported
from tests.testapp.models import Invoice, InvoiceDesk, InvoiceLine

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's locks")
Row: Any = KINDS["AutoKey"].tracked
Tree: Any = KINDS["Ordered"].tracked


def in_threads(*works: Any) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [Thread(target=run, args=(one,)) for one in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    return errors


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time")
def test_two_requests_that_save_a_row_and_refer_to_the_others_both_commit():
    rows = [Tree.objects.create(name=name) for name in ("first", "second")]
    barrier = Barrier(2)

    def request(own: int) -> Any:
        def work() -> None:
            with transaction.atomic():
                rows[own].name = f"saved {own}"
                rows[own].save()
                barrier.wait(30)
                Tree(name="line", above=rows[1 - own]).save()

        return work

    if connection.vendor == "mysql":
        pytest.skip("InnoDB's UPDATE itself locks the row against references")
    assert in_threads(request(0), request(1)) == []
    assert Tree.objects.filter(name="line").count() == 2


@on_postgresql
def test_a_managers_update_does_not_block_who_refers_to_the_row():
    desk = InvoiceDesk.create(number="1")

    def refer() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '3s'")
        InvoiceLine.objects.create(invoice_id=desk.id, text="Lamp")

    with transaction.atomic():
        desk.update(status="paid")
        assert in_threads(refer) == []


@pytest.mark.parametrize("kind", [Row, Tree])
def test_no_row_is_locked_before_its_deletion(kind):
    row = kind.objects.create()
    with CaptureQueriesContext(connection) as captured:
        row.delete()
    assert not any("FOR " in one["sql"] for one in captured)


@on_postgresql
def test_two_deletions_of_one_row_at_once_are_reported_once():
    row = Row.objects.create()
    copies = [Row.objects.get(pk=row.pk) for _ in range(4)]
    with reported() as changes:
        assert in_threads(*(one.delete for one in copies)) == []
    assert brief(changes) == [("delete", "TrackedAutoKey")]


def test_a_no_op_update_reports_nothing_though_the_callers_snapshot_is_older():
    row = Row.objects.create(name="old")
    with transaction.atomic():
        Row.objects.count()
        if connection.vendor != "sqlite":
            assert in_threads(lambda: Row.objects.filter(pk=row.pk).update(name="new")) == []
            row.name = "new"
        with reported() as changes:
            row.save()
    assert changes == []


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's way of locking")
def test_tracked_saves_and_deletions_of_several_threads_wait_for_each_other():
    child: Any = KINDS["ChildOfTracked"].tracked
    rows = [[kind.objects.create() for _ in range(15)] for kind in (Row, Row, child, child)]

    def work_on(mine: list[Any]) -> Any:
        def work() -> None:
            connection.ensure_connection()
            connection.transaction_mode = None  # type: ignore[attr-defined]  # Django's default
            for number, row in enumerate(mine):
                row.name = f"name {number}"
                row.save()
                row.delete()

        return work

    assert in_threads(*map(work_on, rows)) == []


# Roles, views and policies


@contextmanager
def role(*grants: str) -> Any:
    """As somebody who may do nothing but what *grants* say."""
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS limited")
        cursor.execute("CREATE ROLE limited")
        for grant in grants:
            cursor.execute(f"GRANT {grant} TO limited")
        cursor.execute("SET ROLE limited")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP OWNED BY limited")
            cursor.execute("DROP ROLE limited")


@on_postgresql
@pytest.mark.parametrize("name", ["AutoKey", "UuidKey", "SelectOnSave"])
def test_a_role_that_may_only_insert_and_select_creates(name):
    for kind in (KINDS[name].plain, KINDS[name].tracked):
        table = kind._meta.db_table
        grants = [f"INSERT, SELECT ON {table}"]
        if name != "UuidKey":
            grants.append(f"USAGE ON SEQUENCE {table}_id_seq")
        with role(*grants), reported() as changes:
            if name == "SelectOnSave":
                kind(pk=77).save()
            else:
                kind.objects.create()
    assert [one.action for one in changes] == ["create"]


@on_postgresql
def test_a_role_that_may_not_read_a_column_needs_it_only_if_it_is_tracked():
    table = Invoice._meta.db_table
    kind = f"SELECT (id, status, total), UPDATE ON {table}"
    invoice = Invoice.objects.create(number="1")
    with role(kind), reported() as changes:
        invoice.status = "paid"
        invoice.save()
    assert [dict(one.changes) for one in changes] == [{"status": ("open", "paid")}]


@on_postgresql
@pytest.mark.parametrize("name", ["AutoKey", "TextKey", "Ordered"])
def test_a_role_that_may_only_select_and_delete_deletes(name):
    kind: Any = KINDS[name].tracked
    rows = [kind.objects.create(**KINDS[name].new()) for _ in range(3)]
    with role(f"SELECT, DELETE ON {kind._meta.db_table}"), reported() as changes:
        rows[0].delete()
        kind.objects.filter(pk=rows[1].pk).only("pk").delete()
        kind.objects.all().delete()
    assert [one.action for one in changes] == ["delete"] * 3


@on_postgresql
def test_a_role_that_may_only_select_and_delete_deletes_by_a_manager():
    desk = desk_of("AutoKey")
    row = desk.create()
    forget_answers()  # another role, in the same process
    with role(f"SELECT, DELETE ON {desk.get_model()._meta.db_table}"), reported() as changes:
        row.delete()
    forget_answers()
    assert [one.action for one in changes] == ["delete"]


@on_postgresql
def test_a_role_whose_policies_allow_no_update_reports_what_it_deletes():
    table = Row._meta.db_table
    rows = [Row.objects.create(name="mine"), Row.objects.create(name="theirs")]
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        cursor.execute(f"CREATE POLICY seen ON {table} FOR SELECT USING (true)")
        cursor.execute(f"CREATE POLICY gone ON {table} FOR DELETE USING (name = 'mine')")
    try:
        with role(f"SELECT, INSERT, UPDATE, DELETE ON {table}"), reported() as changes:
            for row in rows:
                row.delete()
    finally:
        with connection.cursor() as cursor:
            for name in ("seen", "gone"):
                cursor.execute(f"DROP POLICY {name} ON {table}")
            cursor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    assert [dict(one.old_values) for one in changes] == [{"name": "mine"}]
    assert Row.objects.get().name == "theirs"


VIEW = """
CREATE VIEW rowapp_view AS SELECT max(id) AS id, name FROM rowapp_plainautokey GROUP BY name;
CREATE FUNCTION rowapp_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO rowapp_plainautokey (name) VALUES (NEW.name) RETURNING id INTO NEW.id;
    RETURN NEW; END $$;
CREATE TRIGGER made INSTEAD OF INSERT ON rowapp_view FOR EACH ROW EXECUTE FUNCTION rowapp_insert();
CREATE FUNCTION rowapp_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE rowapp_plainautokey SET name = NEW.name WHERE id = OLD.id; RETURN NEW; END $$;
CREATE TRIGGER changed INSTEAD OF UPDATE ON rowapp_view FOR EACH ROW
    EXECUTE FUNCTION rowapp_update();
"""


@on_postgresql
def test_a_row_of_a_view_with_triggers_is_created_and_updated_and_reported():
    view = track_view()
    with connection.cursor() as cursor:
        cursor.execute(VIEW)
    try:
        with reported() as changes:
            row = view.objects.create(name="a")
            row.name = "b"
            row.save()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP VIEW rowapp_view")
            cursor.execute("DROP FUNCTION rowapp_insert; DROP FUNCTION rowapp_update")
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("create", {"name": (None, "a")}),
        ("update", {"name": ("a", "b")}),
    ]


def track_view() -> Any:
    from general_manager import track_changes
    from tests.rowapp import models

    if not hasattr(models, "View"):
        made = model("View", text(), managed=False, db_table="rowapp_view")
        vars(models)["View"] = track_changes(made)
    return vars(models)["View"]


@on_postgresql
def test_a_row_that_leaves_the_sight_of_its_writer_is_reported_as_written():
    table = Row._meta.db_table
    row = Row.objects.create(name="mine")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        cursor.execute(f"CREATE POLICY seen ON {table} FOR SELECT USING (name = 'mine')")
        cursor.execute(f"CREATE POLICY kept ON {table} FOR UPDATE USING (true) WITH CHECK (true)")
        cursor.execute(f"CREATE POLICY made ON {table} FOR INSERT WITH CHECK (true)")
    try:
        with role(f"SELECT, INSERT, UPDATE, DELETE ON {table}"), reported() as changes:
            row.name = "mine"
            row.save()
            Row(pk=row.pk + 1, name="mine").save(force_insert=True)
    finally:
        with connection.cursor() as cursor:
            for name in ("seen", "kept", "made"):
                cursor.execute(f"DROP POLICY {name} ON {table}")
            cursor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("create", {"name": (None, "mine")})
    ]


@on_postgresql
@pytest.mark.parametrize(
    ("name", "table"), [("Open", "rowapp_open"), ("OpenThere", '"public"."rowapp_open"')]
)
def test_a_managers_row_that_leaves_its_view_is_updated_and_one_out_of_its_sight_is_created(
    name, table
):
    desk = desk_of("AutoKey")
    real = desk.get_model()
    view: Any = model(name, text(), managed=False, db_table=table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE VIEW rowapp_open AS SELECT * FROM {real._meta.db_table} WHERE name <> 'closed'"
        )
    door = desk_of(Kind(name, view, view, dict, dict, [], []))
    try:
        with reported() as changes:
            made = door.create(name="open")
            made.update(name="closed")
            door.create(name="closed")
            again = door.create(name="open")
            again.delete()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP VIEW rowapp_open")
        forget_answers()
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("create", {"name": (None, "open")}),
        ("update", {"name": ("open", "closed")}),
        ("create", {"name": (None, "closed")}),
        ("create", {"name": (None, "open")}),
        ("delete", {"name": ("open", None)}),
    ]


@on_postgresql
def test_a_managers_row_that_its_policies_hide_from_the_writer_is_reported_as_created():
    desk = desk_of("TextKey")  # the INSERT need not return the key, which a policy would refuse
    table = desk.get_model()._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        cursor.execute(f"CREATE POLICY seen ON {table} FOR SELECT USING (name = 'mine')")
        cursor.execute(f"CREATE POLICY made ON {table} FOR INSERT WITH CHECK (true)")
    forget_answers()  # another role, in the same process
    try:
        with role(f"SELECT, INSERT ON {table}"), reported() as changes:
            desk.create(code="a", name="theirs")
            desk.create(code="b", name="mine")
    finally:
        with connection.cursor() as cursor:
            for name in ("seen", "made"):
                cursor.execute(f"DROP POLICY {name} ON {table}")
            cursor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        forget_answers()
    assert [(one.action, one.identification, dict(one.changes)) for one in changes] == [
        ("create", {"code": "a"}, {"name": (None, "theirs")}),
        ("create", {"code": "b"}, {"name": (None, "mine")}),
    ]
