"""Rows of a project that refer to ours, and retention: what their `on_delete` says is done."""

from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection, models
from django.db.models.signals import post_delete
from django.utils import timezone

from general_manager.workflow import HistoryKind, WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.sql import deletes as referrers_module
from general_manager.workflow.workers.pruning import Pruned, prune, prune_once
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

MONTH = timedelta(days=30)
TABLES: list[Any] = [
    WorkflowEventRecord, WorkflowOutbox, WorkflowDeliveryAttempt, WorkflowExecutionRecord,
    WorkflowStep, WorkflowHistory,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()
    referrers_module._named.clear()


@contextmanager
def tables(*makers):
    """Models of a project's app, with tables, for the length of a test."""
    made = []
    before = set(apps.all_models["testapp"])
    try:
        for maker in makers:
            made.append(maker(*made))
            with connection.schema_editor() as editor:
                editor.create_model(made[-1])
        yield made if len(made) > 1 else made[0]
    finally:
        for one in reversed(made):
            with connection.schema_editor() as editor:
                editor.delete_model(one)
        for name in set(apps.all_models["testapp"]) - before:
            del apps.all_models["testapp"][name]
        for one in TABLES:
            one._meta.private_fields[:] = []
        apps.clear_cache()


def model(name, **fields):
    meta = type("Meta", (), {"app_label": "testapp"})
    return type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def note(to, on_delete, **options):
    key = models.ForeignKey(to, on_delete=on_delete, **options)
    return lambda *others: model("Note", target=key, text=models.CharField(max_length=20))


@pytest.fixture
def _old_rows(outbox, celery_engine, workers):
    """Three of each table, all of them old enough."""
    outbox.register("x", handler=lambda event: flows.stumble(), registration_id="x")
    flows.troubles[:] = [ValueError("once")] * 3
    outbox.publish_many(WorkflowEvent(str(n), "a.b", {}, event_name="x") for n in range(3))
    for _ in range(3):
        celery_engine.start(WorkflowDefinition("w", handler=flows.two_steps))
        workers.deliver()
        workers.let_rest_pass()
        workers.deliver()
        workers.run()
    for execution in WorkflowExecutionRecord.objects.all():
        WorkflowHistory.objects.note(HistoryKind.RECOVERED, execution=execution)
    then = timezone.now() - 2 * MONTH
    assert WorkflowOutbox.objects.filter(status="processed").update(settled_at=then) == 3
    assert WorkflowExecutionRecord.objects.filter(state="completed").update(ended_at=then) == 3


def prune_all():
    return sum(prune(MONTH), Pruned())


def target_of(table):
    return table.objects.order_by("pk").first()


@pytest.mark.usefixtures("_old_rows")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("on_delete", "options", "left"),
    [
        (models.CASCADE, {}, []),
        (models.SET_NULL, {"null": True}, [None]),
        (models.SET(None), {"null": True}, [None]),
        (models.SET_DEFAULT, {"null": True, "default": None}, [None]),
        (models.DO_NOTHING, {"db_constraint": False}, ["dangling"]),
    ],
)
def test_o3_what_on_delete_says_is_done_and_nothing_is_kept(table, on_delete, options, left):
    with tables(note(table, on_delete, **options)) as notes:
        target = target_of(table)
        notes.objects.create(target=target, text="of ours")
        assert prune_all() == Pruned(3, 3)
        assert [one.objects.count() for one in TABLES] == [0] * 6
        found = list(notes.objects.values_list("target_id", flat=True))
        assert found == [target.pk if one == "dangling" else one for one in left]


@pytest.mark.usefixtures("_old_rows")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("on_delete", [models.PROTECT, models.RESTRICT, models.DO_NOTHING])
def test_o3_what_a_project_keeps_is_skipped_and_named(table, on_delete, caplog):
    with tables(note(table, on_delete)) as notes:
        row = notes.objects.create(target=target_of(table), text="of ours")
        pruned = prune_all()
        assert sorted(pruned_of(pruned)) == [2, 3]
        assert table.objects.filter(pk=row.target_id).exists()
        assert prune_all() == Pruned(), "and is not in the way of the next time"
        named = [
            one.getMessage() for one in caplog.records if "Retention cannot delete" in str(one.msg)
        ]
        [message] = set(named)
        assert "testapp.Note" in message
        assert len(named) == 1, "once in a process"
        row.delete()
        assert sorted(pruned_of(prune_all())) == [0, 1]


def pruned_of(pruned):
    return (pruned.events, pruned.executions)


@pytest.mark.usefixtures("_old_rows")
def test_what_is_kept_does_not_fill_the_batches_of_beats_tick():
    with tables(note(WorkflowExecutionRecord, models.PROTECT)) as notes:
        for execution in WorkflowExecutionRecord.objects.order_by("pk")[:2]:
            notes.objects.create(target=execution)
        assert prune_once(MONTH, batch_size=1) == Pruned(1, 1)
        assert WorkflowExecutionRecord.objects.count() == 2


@pytest.mark.usefixtures("_old_rows")
def test_what_is_kept_by_way_of_a_row_that_would_go_is_skipped_too(caplog):
    def reply(notes):
        return model("Reply", note=models.ForeignKey(notes, on_delete=models.PROTECT))

    with tables(note(WorkflowExecutionRecord, models.CASCADE), reply) as (notes, replies):
        row = notes.objects.create(target=target_of(WorkflowExecutionRecord))
        replies.objects.create(note=row)
        assert prune_all() == Pruned(3, 2)
        assert prune_once(MONTH, batch_size=1) == Pruned()
        assert "testapp.Reply" in caplog.text
        assert WorkflowStep.objects.filter(execution=row.target_id).count() == 2


@pytest.mark.usefixtures("_old_rows")
def test_a_restricted_row_that_goes_by_another_way_keeps_nothing():
    def both(*others):
        return model(
            "Note",
            one=models.ForeignKey(
                WorkflowExecutionRecord, on_delete=models.RESTRICT, related_name="+"
            ),
            two=models.ForeignKey(
                WorkflowExecutionRecord, on_delete=models.CASCADE, related_name="+"
            ),
        )

    with tables(both) as notes:
        first, second, third = WorkflowExecutionRecord.objects.order_by("pk")
        notes.objects.create(one=first, two=first)
        notes.objects.create(one=second, two=third)
        # Django refuses the second alone, and takes both together.
        assert prune_all() == Pruned(3, 3)
        assert not notes.objects.exists()


@pytest.mark.usefixtures("_old_rows")
def test_a_key_to_another_column_than_the_primary_key_is_honoured():
    maker = note(WorkflowEventRecord, models.SET_NULL, null=True, to_field="event_id")
    with tables(maker) as notes:
        notes.objects.create(target=target_of(WorkflowEventRecord))
        assert prune_all() == Pruned(3, 3)
        assert notes.objects.get().target_id is None


@pytest.mark.usefixtures("_old_rows")
def test_many_to_many_rows_go_and_what_they_lead_to_stays():
    def maker(*others):
        return model("Board", shown=models.ManyToManyField(WorkflowExecutionRecord))

    with tables(maker) as boards:
        board = boards.objects.create()
        board.shown.set(WorkflowExecutionRecord.objects.all())
        assert prune_all() == Pruned(3, 3)
        assert boards.objects.get() == board
        assert not board.shown.exists()


@pytest.mark.usefixtures("_old_rows")
def test_a_generic_relation_takes_its_rows_along():
    def maker(*others):
        return model(
            "Label",
            kind=models.ForeignKey(ContentType, on_delete=models.CASCADE),
            key=models.PositiveBigIntegerField(),
            target=GenericForeignKey("kind", "key"),
        )

    with tables(maker) as labels:
        relation = GenericRelation(labels, content_type_field="kind", object_id_field="key")
        relation.contribute_to_class(WorkflowExecutionRecord, "labels")
        labels.objects.create(target=target_of(WorkflowExecutionRecord))
        assert prune_all() == Pruned(3, 3)
        assert not labels.objects.exists()


@pytest.mark.usefixtures("_old_rows")
def test_signals_are_sent_of_the_projects_rows_that_go():
    gone = []
    with tables(note(WorkflowStep, models.CASCADE)) as notes:
        row = notes.objects.create(target=target_of(WorkflowStep))

        def receive(instance, **details):
            gone.append(instance)

        post_delete.connect(receive, sender=notes)
        try:
            prune_all()
        finally:
            post_delete.disconnect(receive, sender=notes)
        assert [type(one) for one in gone] == [notes]
        assert row.target_id


@pytest.mark.usefixtures("_old_rows")
def test_the_command_names_what_is_kept_and_by_whom():
    with tables(note(WorkflowExecutionRecord, models.PROTECT)) as notes:
        notes.objects.create(target=target_of(WorkflowExecutionRecord))
        said = StringIO()
        call_command("workflow_prune", "--older-than", "30d", "--dry-run", stdout=said)
        assert "3 events and 2 executions would be deleted" in said.getvalue()
        call_command("workflow_prune", "--older-than", "30d", stdout=said)
        assert "3 events and 2 executions deleted" in said.getvalue()
        assert "1 row kept because of testapp.Note.target (on_delete=PROTECT)" in said.getvalue()
        assert said.getvalue().count("kept because of") == 2
