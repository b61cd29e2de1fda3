"""A schema for each tenant, as django-tenants and others have it: what works, and how."""

from contextlib import contextmanager

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from general_manager.workflow import WorkflowDefinition, WorkflowEvent, get_workflow_engine
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="Only there is a search path"),
]


@contextmanager
def inside(*schemas):
    """What `tenant_context` does to the connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('search_path', %s, false)", [",".join(schemas)])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('search_path', 'public', false)")


@pytest.fixture
def tenant():
    """Makes the schema of a tenant with tables of its own."""
    made = []

    def make(name, *prefixes):
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {name}")
            made.append(name)
            for table in connection.introspection.table_names(cursor):
                if table.startswith(prefixes):
                    cursor.execute(
                        f"CREATE TABLE {name}.{table} (LIKE public.{table} INCLUDING ALL)"
                    )
        return name

    yield make
    with connection.cursor() as cursor:
        for name in made:
            cursor.execute(f"DROP SCHEMA {name} CASCADE")


def start_for(event):
    Tag.objects.create(name=f"handled {event.event_id}")
    definition = WorkflowDefinition("echo", handler=flows.echo)
    get_workflow_engine().start(definition, {"event": event.event_id})


def names():
    return sorted(Tag.objects.values_list("name", flat=True))


def test_d5_with_our_tables_shared_workers_serve_every_tenant(outbox, celery_engine, tenant):
    blue = tenant("blue", "testapp_tag")

    def handle(event):
        with inside(event.metadata["schema"], "public"):
            start_for(event)

    outbox.register("x", handler=handle)
    with inside(blue, "public"), transaction.atomic():
        Tag.objects.create(name="changed")
        outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x", metadata={"schema": blue}))
    call_command("workflow_drain_outbox", verbosity=0)
    assert WorkflowOutbox.objects.get().status == "processed"
    assert WorkflowExecutionRecord.objects.get().state == "completed"
    assert names() == []
    with inside(blue, "public"):
        assert names() == ["changed", "handled 1"]


def test_d5_with_our_tables_in_each_schema_a_drain_inside_the_context_does_its_work(
    outbox, celery_engine, tenant
):
    schemas = [tenant(name, "testapp_tag", "general_manager_") for name in ("blue", "green")]
    outbox.register("x", handler=start_for)
    for schema in schemas:
        with inside(schema):
            outbox.publish(WorkflowEvent(schema, "a.b", {}, event_name="x"))
    call_command("workflow_drain_outbox", verbosity=0)
    for schema in schemas:
        with inside(schema):
            assert WorkflowOutbox.objects.get().status == "pending", "others do not see it"
            call_command("workflow_drain_outbox", verbosity=0)
            assert WorkflowOutbox.objects.get().status == "processed"
            assert WorkflowExecutionRecord.objects.get().state == "completed"
            assert names() == [f"handled {schema}"]
    assert not WorkflowOutbox.objects.exists()
