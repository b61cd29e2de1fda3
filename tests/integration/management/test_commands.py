"""The management commands: what they do, what they print, how they end."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError
from django.test import override_settings
from django.utils import timezone

from general_manager.management import base
from general_manager.workflow import (
    DatabaseEventRegistry,
    WorkflowDefinition,
    WorkflowEvent,
    configure_event_registry,
)
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
)
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.workers.tick import tick
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

DAY = timedelta(days=1)
ONE_PASS = {"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


class Terminal(StringIO):
    def isatty(self):
        return True


def run(name, *arguments, stdout=None, **options):
    out = stdout or StringIO()
    call_command(name, *arguments, stdout=out, no_color=True, **options)
    return out.getvalue()


def publish(registry, *ids, name="x", payload=None):
    registry.publish_many(WorkflowEvent(one, "a.b", payload or {}, event_name=name) for one in ids)


def fail_always(event):
    raise ValueError("no")


def bury(registry, *ids, name="x", **options):
    registry.register(name, **{"handler": fail_always, **options})
    publish(registry, *ids, name=name)
    with override_settings(GENERAL_MANAGER=ONE_PASS):
        drain()


# workflow_drain_outbox


def test_draining_delivers_and_runs_here_until_nothing_is_left(outbox, celery_engine):
    outbox.register("x", handler=flows.start_from_event)
    publish(outbox, *map(str, range(7)))
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_OUTBOX_BATCH_SIZE": 3}
    ):
        assert run("workflow_drain_outbox") == "7 events processed, 7 executions run.\n"
        assert run("workflow_drain_outbox") == "0 events processed, 0 executions run.\n"
    assert set(WorkflowExecutionRecord.objects.values_list("state", flat=True)) == {"completed"}


def test_draining_takes_over_what_dead_workers_left(celery_engine, workers):
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    past = timezone.now() - DAY
    WorkflowExecutionRecord.objects.update(
        state="running", claim_token="gone", wake_at=past, ready=False
    )
    assert run("workflow_drain_outbox") == "0 events processed, 1 execution run.\n"
    assert WorkflowExecutionRecord.objects.get().state == "completed"
    assert WorkflowHistory.objects.get().by == "manage.py workflow_drain_outbox"


def test_draining_once_takes_a_batch_and_a_limit_is_kept(outbox, celery_engine):
    outbox.register("x", handler=lambda event: None)
    publish(outbox, *map(str, range(10)))
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_OUTBOX_BATCH_SIZE": 3}
    ):
        assert run("workflow_drain_outbox", "--once").startswith("3 events")
        assert run("workflow_drain_outbox", "--limit", "4").startswith("4 events")
        assert run("workflow_drain_outbox").startswith("3 events")
    with pytest.raises(CommandError, match="not a whole number of at least 1"):
        run("workflow_drain_outbox", "--limit", "0")


def test_words_on_the_way_overwrite_each_other_on_a_terminal_only(outbox, celery_engine):
    outbox.register("x", handler=lambda event: None)
    publish(outbox, "1")
    assert run("workflow_drain_outbox", stdout=Terminal()).count("\r") == 2
    publish(outbox, "2")
    assert "\r" not in run("workflow_drain_outbox")
    publish(outbox, "3")
    assert "\r" not in run("workflow_drain_outbox", stdout=Terminal(), verbosity=0)


def test_long_work_says_now_and_then_how_far_it_is(outbox, celery_engine, monkeypatch):
    monkeypatch.setattr(base, "PROGRESS_SECONDS", -1)
    outbox.register("x", handler=lambda event: None)
    publish(outbox, "1")
    assert run("workflow_drain_outbox").splitlines() == 2 * ["1 event processed, 0 executions run."]


# workflow_requeue_dead_letters


def test_requeueing_dead_letters_records_who_did_it(outbox):
    bury(outbox, "1", "2")
    assert run("workflow_requeue_dead_letters", "--limit", "1") == ("1 dead letter requeued.\n")
    assert run("workflow_requeue_dead_letters") == "1 dead letter requeued.\n"
    assert run("workflow_requeue_dead_letters") == "0 dead letters requeued.\n"
    assert set(WorkflowOutbox.objects.values_list("status", flat=True)) == {"pending"}
    requeued = WorkflowHistory.objects.filter(kind="requeued")
    assert {row.by for row in requeued} == {"manage.py workflow_requeue_dead_letters"}


def test_a_handler_without_dead_letters_is_answered_with_those_that_have_some(outbox):
    bury(outbox, "1")
    for arguments in (("--dry-run",), ()):
        said = run("workflow_requeue_dead_letters", "--handler", "typo", *arguments)
        assert "0 dead letters" in said
        assert "Registrations with dead letters: " in said
        assert "fail_always" in said


def test_the_old_name_of_requeueing_still_works(outbox):
    bury(outbox, "1")
    assert run("workflow_replay_dead_letters") == "1 dead letter requeued.\n"
    assert WorkflowHistory.objects.get(kind="requeued").by == (
        "manage.py workflow_requeue_dead_letters"
    )


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ((), 3),
        (("--handler", "tests.integration.management.test_commands.fail_always"), 2),
        (("--handler", "nobody"), 0),
        (("--handler", "named"), 1),
        (("--handler", "tests.testapp.flows.fail"), 1),
        (("--event-name", "y"), 1),
        (("--event-type", "a.b"), 3),
        (("--event-type", "a.c"), 0),
        (("--since", "1h"), 2),
        (("--since", "2020-01-31"), 3),
        (("--since", "2020-01-31T12:00+00:00"), 3),
        (("--limit", "2"), 2),
    ],
)
def test_dead_letters_are_chosen_by_handler_event_and_time(outbox, arguments, count):
    bury(outbox, "1", "2")
    bury(outbox, "3", name="y", handler=flows.fail, registration_id="named")
    WorkflowDeliveryAttempt.objects.filter(outbox__event__event_id="1").update(
        finished_at=timezone.now() - DAY
    )
    text = run("workflow_requeue_dead_letters", "--dry-run", *arguments)
    words = "dead letter" if count == 1 else "dead letters"
    assert f"{count} {words} would be requeued." in text
    assert sum(int(line.split()[0]) for line in text.splitlines()[:-1]) == count
    dead = WorkflowDeliveryAttempt.objects.filter(status="dead_letter")
    assert dead.count() == 3
    assert run("workflow_requeue_dead_letters", *arguments).startswith(f"{count} dead")
    assert dead.count() == 3 - count


def test_a_time_that_is_none_is_refused_in_words():
    for wrong in ("yesterday", "2026-13-45", "99999999999d"):
        with pytest.raises(CommandError, match="neither a date or time"):
            run("workflow_requeue_dead_letters", "--since", wrong)


def test_e8_a_dead_letter_whose_event_a_worker_has_just_now_is_not_lost(outbox, workers):
    """Another handler of the event is being retried meanwhile."""
    outbox.register("x", handler=fail_always, registration_id="dead")

    def requeue_meanwhile(event):
        if not told:
            told.append(1)
            raise ValueError("later")
        told.append(run("workflow_requeue_dead_letters"))

    told: list[object] = []
    outbox.register("x", handler=requeue_meanwhile, registration_id="slow", atomic=False)
    publish(outbox, "1")
    with override_settings(GENERAL_MANAGER=ONE_PASS | {"WORKFLOW_MAX_RETRIES": 2}):
        workers.deliver()
        workers.let_rest_pass()
        workers.deliver()
    assert told == [1, "0 dead letters requeued.\n"]
    assert WorkflowOutbox.objects.get().status == "dead_letter"
    assert run("workflow_requeue_dead_letters") == "1 dead letter requeued.\n"
    workers.deliver()
    assert WorkflowDeliveryAttempt.objects.get(registration_id="dead").status == "failed"


# workflow_status


def test_status_of_a_healthy_project_exits_with_zero(outbox):
    tick()
    text = run("workflow_status")
    assert text.startswith("All is well.\n")
    assert "0 pending, 0 running, 0 waiting" in text
    assert json.loads(run("workflow_status", "--format", "json"))["ok"] is True


def test_status_names_what_is_wrong_with_a_remedy_and_exits_with_one(outbox):
    bury(outbox, "1")
    out = StringIO()
    with pytest.raises(SystemExit) as caught:
        run("workflow_status", stdout=out)
    assert caught.value.code == 1
    text = out.getvalue()
    assert "Beat has never ticked. [no-beat]" in text
    assert "1 dead letter. [dead-letters]" in text
    assert "workflow_requeue_dead_letters" in text
    out = StringIO()
    with pytest.raises(SystemExit):
        run("workflow_status", "--format=json", stdout=out)
    assert [one["code"] for one in json.loads(out.getvalue())["troubles"]] == [
        "no-worker", "no-beat", "dead-letters",
    ]  # fmt: skip


def test_status_that_cannot_ask_exits_with_two(monkeypatch):
    def be_away(self, *arguments, **options):
        raise OperationalError("connection refused")

    monkeypatch.setattr("django.db.backends.utils.CursorWrapper.execute", be_away)
    with pytest.raises(CommandError, match="query failed: connection refused") as caught:
        run("workflow_status")
    assert caught.value.returncode == 2
    with (
        override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "prod"}),
        pytest.raises(CommandError, match="WORKFLOW_MODE") as caught,
    ):
        run("workflow_status")
    assert caught.value.returncode == 2


# workflow_registrations


def test_registrations_are_listed_with_what_other_processes_make_of_them(outbox):
    outbox.register("b", handler=flows.start_from_event, retries=2, when=flows.echo)
    outbox.register("a.b", handler=lambda event: None, atomic=False)
    text = run("workflow_registrations")
    assert text.index("a.b") < text.index("\nb\n")
    assert "tests.testapp.flows.start_from_event  when=tests.testapp.flows.echo  retries=2" in text
    assert "atomic=False  not importable  its id may change: pass registration_id" in text
    first, second = json.loads(run("workflow_registrations", "--format=json"))
    assert (first["key"], first["is_importable"], first["is_fragile"]) == ("a.b", False, True)
    assert (second["is_importable"], second["options"]["retries"]) == (True, 2)
    assert second["id"] == outbox.registrations()[0].id


def test_a_process_without_registrations_says_where_they_belong(event_registry):
    assert "workflows.py" in run("workflow_registrations")


# workflow_trace


def test_a_trace_tells_the_story_of_an_event_and_of_its_execution(outbox, celery_engine):
    outbox.register("x", handler=flows.start_from_event)
    publish(outbox, "1", payload={"name": "Ada", "password": "hunter2"})
    run("workflow_drain_outbox")
    text = run("workflow_trace", "1")
    assert text.startswith("Event 1\n")
    for told in ("published x", "delivered x:tests", "created echo", "completed echo", "Ada"):
        assert told in text
    assert "hunter2" not in text
    execution = WorkflowExecutionRecord.objects.get()
    text = run("workflow_trace", execution.execution_id)
    assert "state" in text
    assert "caused by" in text
    assert text.index("published x") < text.index("started echo") < text.index("completed echo")


def test_a_trace_gives_times_in_the_zone_of_the_project(celery_engine):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.wait_once))
    run("workflow_drain_outbox")
    since = celery_engine.status(execution.execution_id).waiting_since
    with timezone.override("Asia/Kathmandu"):
        local = timezone.localtime(since)
        text = run("workflow_trace", execution.execution_id)
    assert f"{local:%Y-%m-%d %H:%M:%S}+05:45" in text


def test_a_trace_names_a_registration_that_no_worker_knows(outbox):
    registered = outbox.register("x", handler=flows.start_from_event, registration_id="gone")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    assert "unregistered" not in run("workflow_trace", "1")  # nobody has had it yet
    configure_event_registry(DatabaseEventRegistry())
    drain()
    configure_event_registry(outbox)
    assert "unregistered gone" in run("workflow_trace", "1")
    assert registered.id == "gone"


def test_a_trace_says_that_no_handler_matched(outbox):
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="nobody.listens"))
    drain()
    assert "unmatched" in run("workflow_trace", "1")


def test_a_trace_for_machines_is_redacted_too(outbox):
    publish(outbox, "1", payload={"token": "s3cret"})
    text = run("workflow_trace", "1", "--format=json")
    assert "s3cret" not in text
    told = json.loads(text)
    assert (told["kind"], told["outbox"]) == ("event", "pending")
    assert told["timeline"][0]["what"] == "published"


def test_a_trace_shows_errors_and_long_silences(outbox):
    bury(outbox, "1")
    WorkflowEventRecord.objects.update(published_at=timezone.now() - DAY)
    text = run("workflow_trace", "1")
    assert "… 1 d later" in text
    assert "ValueError: no" in text


def test_an_unknown_id_is_an_error_in_words():
    with pytest.raises(CommandError, match="No event and no execution matches 'nothing'"):
        run("workflow_trace", "nothing")


# workflow_prune


def test_pruning_asks_how_old_a_row_must_be():
    with pytest.raises(
        CommandError, match="--older-than, such as 30d, or set WORKFLOW_RETENTION_DAYS"
    ):
        run("workflow_prune")
    for wrong in ("30", "d", "-1d", "0h", "soon"):
        with pytest.raises(CommandError, match="not a number and a unit"):
            run("workflow_prune", f"--older-than={wrong}")
    with pytest.raises(CommandError, match="more than 10,000"):
        run("workflow_prune", "--older-than=1d", "--batch-size=10001")


def test_pruning_deletes_in_batches_and_can_be_tried_first(outbox, celery_engine):
    outbox.register("x", handler=lambda event: None)
    publish(outbox, *map(str, range(5)))
    run("workflow_drain_outbox")
    bury(outbox, "dead", name="y")
    WorkflowOutbox.objects.update(settled_at=timezone.now() - 3 * DAY)
    assert run("workflow_prune", "--older-than=4d") == "0 events and 0 executions deleted.\n"
    arguments = ("--older-than=2d", "--batch-size=2")
    assert run("workflow_prune", "--dry-run", *arguments) == (
        "5 events and 0 executions would be deleted.\n"
    )
    assert run("workflow_prune", *arguments) == "5 events and 0 executions deleted.\n"
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_RETENTION_DAYS": 2}
    ):
        assert run("workflow_prune").startswith("0 events")
        assert run("workflow_prune", "--include-failed").startswith("1 event and 0 executions")
    assert not WorkflowEventRecord.objects.exists()


@pytest.mark.parametrize(
    "name",
    ["workflow_drain_outbox", "workflow_registrations", "workflow_status"],
)
def test_commands_work_in_local_mode_too(name):
    assert run(name)
