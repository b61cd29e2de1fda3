"""What the pages do with large rows, other time zones, spreadsheets, and people who see a part."""

import csv
import json
import re
import tracemalloc
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.admin import export
from general_manager.workflow.admin.executions import ExecutionAdmin
from general_manager.workflow.admin.export import cell
from general_manager.workflow.admin.fields import links
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.operations.moments import MOST_MOMENTS
from general_manager.workflow.operations.timeline import timeline_of_execution
from tests.integration.conftest import confirm, hidden_fields
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

EXECUTIONS = "/admin/general_manager/workflowexecutionrecord/"
EVENTS = "/admin/general_manager/workfloweventrecord/"
LETTERS = "/admin/general_manager/deadletter/"
OUTBOX = "/admin/general_manager/workflowoutbox/"
OVERVIEW = "/admin/general_manager/overview/"


def text_of(response):
    assert response.status_code == 200, response
    if response.streaming:
        return b"".join(response.streaming_content).decode()
    return response.content.decode()


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def staff_with(client, *codenames):
    user = get_user_model().objects.create_user("ada", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    return client


def execution(**values):
    fields = {"execution_id": "x-1", "workflow_id": "trip", "state": "failed", "error": "boom"}
    return WorkflowExecutionRecord.objects.create(**{**fields, **values})


def event(event_id="e-1", payload=None, **values):
    return WorkflowEventRecord.objects.create(
        event_id=event_id, event_type="shop.paid", payload=payload or {}, **values
    )


def export_of(client, url):
    sent = {"action": "export_as_csv", "select_across": "1", "_selected_action": [1]}
    head, *rows = csv.reader(StringIO(text_of(client.post(url, sent))))
    return [dict(zip(head, row, strict=True)) for row in rows]


# I6: each page shows of another table what its reader may see there


@pytest.fixture
def story():
    """An event with a dead delivery, and an execution that it caused."""
    stored = event(payload={"manager": "Project", "identification": {"id": 42}})
    entry = WorkflowOutbox.objects.create(
        event=stored, status="claimed", claimed_by="worker-of-outbox", claimed_at=timezone.now()
    )
    WorkflowDeliveryAttempt.objects.create(
        outbox=entry, registration_id="shop.handlers.bill", status="dead_letter",
        error_class="ValueError", error="no mail server", finished_at=timezone.now(),
    )  # fmt: skip
    return execution(caused_by="e-1", error="carrier away", ended_at=timezone.now())


EVENTS_OWN = ("Event published", "Project 42")
OUTBOXS_OWN = ("worker-of-outbox",)
LETTERS_OWN = ("no mail server", "shop.handlers.bill")
EXECUTIONS_OWN = ("carrier away", "trip x-1")


@pytest.mark.parametrize(
    ("codenames", "shown", "hidden"),
    [
        ((), (), (*EVENTS_OWN, *OUTBOXS_OWN, *LETTERS_OWN)),
        (("workfloweventrecord",), EVENTS_OWN, (*OUTBOXS_OWN, *LETTERS_OWN)),
        (("workfloweventrecord", "workflowdeliveryattempt"), EVENTS_OWN + LETTERS_OWN, OUTBOXS_OWN),
        (("workfloweventrecord", "workflowoutbox"), EVENTS_OWN + OUTBOXS_OWN, LETTERS_OWN),
        (("workflowdeliveryattempt", "workflowoutbox"), (), EVENTS_OWN + OUTBOXS_OWN + LETTERS_OWN),
    ],
)  # fmt: skip
def test_i6_an_executions_page_shows_of_its_event_what_the_reader_may_see(
    client, story, codenames, shown, hidden
):
    staff_with(client, "view_workflowexecutionrecord", *(f"view_{one}" for one in codenames))
    for url in (f"{EXECUTIONS}{story.pk}/change/", EXECUTIONS):
        text = text_of(client.get(url))
        assert "carrier away" in text
        assert [one for one in hidden if one in text] == []
    text = text_of(client.get(f"{EXECUTIONS}{story.pk}/change/"))
    assert [one for one in shown if one not in text] == []
    assert "e-1" in text  # its own column


@pytest.mark.parametrize(
    ("codenames", "shown", "hidden"),
    [
        ((), (), (*EXECUTIONS_OWN, *OUTBOXS_OWN, *LETTERS_OWN)),
        (("workflowexecutionrecord",), EXECUTIONS_OWN, (*OUTBOXS_OWN, *LETTERS_OWN)),
        (("workflowdeliveryattempt",), LETTERS_OWN, (*OUTBOXS_OWN, *EXECUTIONS_OWN)),
    ],
)
def test_i6_an_events_page_shows_of_other_tables_what_the_reader_may_see(
    client, story, codenames, shown, hidden
):
    staff_with(client, "view_workfloweventrecord", *(f"view_{one}" for one in codenames))
    key = WorkflowEventRecord.objects.get().pk
    text = text_of(client.get(f"{EVENTS}{key}/change/"))
    assert "Project 42" in text
    assert [one for one in hidden if one in text] == []
    assert [one for one in shown if one not in text] == []
    assert ("1 dead" in text_of(client.get(EVENTS))) == ("workflowdeliveryattempt" in codenames)


def test_i6_dead_letters_and_outbox_name_an_event_only_to_those_who_may_see_it(client, story):
    staff_with(client, "view_workflowdeliveryattempt", "view_workflowoutbox")
    for url in (LETTERS, OUTBOX):
        assert "shop.paid" not in text_of(client.get(url))
        [row] = export_of(client, url)
        assert {value for name, value in row.items() if "event" in name} == {""}
    letter = WorkflowDeliveryAttempt.objects.get().pk
    assert "shop.paid" not in text_of(client.get(f"{LETTERS}{letter}/change/"))


def test_i6_the_overview_shows_the_numbers_of_the_tables_that_its_reader_may_see(client, story):
    staff_with(client, "view_workflowexecutionrecord")
    text = text_of(client.get(OVERVIEW))
    for words in ("Dead letters by handler", "dead letter.", "Undelivered", "shop.handlers"):
        assert words not in text
    assert "carrier away" in text


def test_i1_the_overview_has_no_pages_of_rows_that_redact_nothing(boss):
    record = execution(input_data={"password": "hunter2"})
    for kind in ("change/", "history/", "delete/", ""):
        assert boss.get(f"{OVERVIEW}{record.pk}/{kind}").status_code == 404
    assert boss.get(f"{OVERVIEW}add/").status_code == 404


# I7: the log of acts tells what happened


def test_i7_releasing_a_claim_that_its_worker_has_settled_is_not_logged(boss):
    entry = WorkflowOutbox.objects.create(
        event=event(), status="claimed", claim_token="old", claimed_at=timezone.now()
    )
    sent = {"action": "release_selected", "_selected_action": [entry.pk]}
    confirmed = hidden_fields(boss.post(OUTBOX, sent))
    WorkflowOutbox.objects.update(claim_token="another's")
    assert "1 skipped:" in text_of(boss.post(OUTBOX, confirmed, follow=True))
    assert WorkflowOutbox.objects.get().status == "claimed"
    assert not LogEntry.objects.exists()
    boss.post(OUTBOX, hidden_fields(boss.post(OUTBOX, sent)))
    assert WorkflowOutbox.objects.get().status == "pending"
    assert LogEntry.objects.get().get_change_message() == "Released."


def test_i7_delivering_now_is_in_the_log_with_how_many(boss, outbox):
    outbox.register("x", handler=lambda event: None, registration_id="r")
    for number in range(2):
        outbox.publish(WorkflowEvent(str(number), "a.b", {}, event_name="x"))
    boss.post(reverse("admin:general_manager_outbox_drain"))
    entry = LogEntry.objects.get()
    assert (str(entry.user), entry.object_repr) == ("boss", "Outbox")
    assert entry.get_change_message().startswith("2 events were processed")


def test_i7_an_act_that_cannot_be_logged_is_not_done(boss, celery_engine, monkeypatch):
    celery_engine.start(WorkflowDefinition("trip", handler=flows.ask))
    record = WorkflowExecutionRecord.objects.get()

    def fail(*arguments, **options):
        raise RuntimeError("the log is full")

    monkeypatch.setattr(ExecutionAdmin, "log_change", fail)
    url = reverse("admin:general_manager_execution_act", args=[record.pk, "cancel"])
    with pytest.raises(RuntimeError, match="the log is full"):
        confirm(boss, url)
    assert WorkflowExecutionRecord.objects.get().state == "pending"
    assert not WorkflowHistory.objects.exists()


# I9: what is read and shown is bounded


def test_i9_an_export_reads_a_bounded_part_at_a_time_and_needs_no_cursor_on_the_server(
    boss, monkeypatch
):
    for number in range(40):
        event(f"e{number}", {"data": "x" * 1_000_000, "password": "hunter2"})
    monkeypatch.setattr(export, "MOST_CHARACTERS", 2_000_000)

    def refuse(*arguments):
        raise AssertionError("a server-side cursor")

    monkeypatch.setattr(type(connections["default"]), "chunked_cursor", refuse)
    sent = {"action": "export_as_csv", "select_across": "1", "_selected_action": [1]}
    response = boss.post(EVENTS, sent)
    tracemalloc.start()
    size = rows = 0
    for part in response.streaming_content:
        size += len(part)
        rows += 1
        assert b"hunter2" not in part
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 41
    assert size < 41 * 40_000
    assert peak < 30_000_000


def test_d4_an_export_goes_by_key_and_has_each_row_once(boss, monkeypatch):
    monkeypatch.setattr(export, "EXPORT_BATCH", 3)
    for number in range(10):
        event(f"e{number}")
    assert [row["event_id"] for row in export_of(boss, EVENTS)] == [f"e{n}" for n in range(10)]


def test_i9_a_long_cell_is_cut_where_spreadsheets_end_and_says_so(boss):
    execution(error="é" * 100_000, input_data={"a": "x" * 100_000})
    [row] = export_of(boss, EXECUTIONS)
    assert row["error"].endswith("(100,000 characters in all)")
    assert "(100,000 characters in all)" in row["input_data"]
    assert max(map(len, row.values())) < 32_767


def test_i9_the_models_that_payloads_name_are_remembered_up_to_a_bound(boss):
    for number in range(300):
        links.known_model(f"Name{number}")
    assert links.known_model.cache_info().currsize <= 256
    event("long", {"manager": "M" * 1_000_000, "identification": {"id": 1}})
    execution(caused_by="long")
    before = links.known_model.cache_info().misses
    assert len(text_of(boss.get(EXECUTIONS))) < 100_000
    assert links.known_model.cache_info().misses == before


def test_i9_a_timeline_shows_a_bounded_number_of_steps_and_says_that_there_are_more(boss):
    record = execution(started_at=timezone.now())
    now = timezone.now()
    WorkflowStep.objects.bulk_create(
        WorkflowStep(execution=record, name=f"step{number}", status="done", started_at=now,
                     finished_at=now, result="x" * 10)
        for number in range(MOST_MOMENTS + 300)
    )  # fmt: skip
    moments = timeline_of_execution(record)
    assert sum(one.what == "step" for one in moments) == MOST_MOMENTS
    assert [(one.what, one.about) for one in moments if one.what == "left_out"] == [
        ("left_out", "steps")
    ]
    assert "further ones are not shown" in text_of(boss.get(f"{EXECUTIONS}{record.pk}/change/"))


def test_i9_a_change_of_very_many_fields_is_a_short_table(boss):
    changes = {f"field{number}": {"old": 1, "new": 2} for number in range(50_000)}
    key = event(payload={"manager": "P", "changes": changes}).pk
    text = text_of(boss.get(f"{EVENTS}{key}/change/"))
    assert len(text) < 400_000
    assert "… and 49,800 more fields" in text


def test_i9_payloads_are_not_read_for_a_list(boss):
    event(payload={"manager": "Project", "identification": {"id": 7}, "data": "x" * 5_000_000})
    execution(caused_by="e-1", traceback="x" * 5_000_000, error="y" * 5_000_000)
    boss.get(EXECUTIONS)
    tracemalloc.start()
    text = text_of(boss.get(EXECUTIONS))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "Project 7" in text
    assert peak < 4_500_000


# I10: cells

HARMLESS = [
    "plain",
    "a=b",
    "1+1",
    "2026-01-01",
    "x@example.com",
    "\N{EN DASH}",
    "é=",
    "",
    "{'a': 1}",
]
FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\xa0=1", "\u200b=1", "\ufeff=1",
    "\u3000=1", "\u2028=1", "\u202e=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20SUM", "\u2212 1",
    "\ufe66x", "\x00=1", "'=1", '"=1', "\x1f+1", " \n\t \u200d-1", "\ttext", "\rtext", "\ntext",
    "\u00ad=1", "\u180e=1", "\u2060=1", "\u3164=1", "\x0b=1", "\x85=1",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_i10_what_a_spreadsheet_takes_for_a_formula_has_a_leading_quote(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_i10_other_text_is_exported_as_it_is(text):
    assert cell(text) == text


@pytest.mark.parametrize(("value", "shown"), [(-5, "-5"), (None, ""), (1.5, "1.5")])
def test_numbers_are_no_formulas(value, shown):
    assert cell(value) == shown


def test_i10_a_cell_cannot_begin_another_one_for_a_spreadsheet_that_splits_at_semicolons(boss):
    execution(correlation_id="x;=1+1")
    sent = {"action": "export_as_csv", "select_across": "1", "_selected_action": [1]}
    assert '"x;=1+1"' in text_of(boss.post(EXECUTIONS, sent))


def test_a_cell_that_no_encoder_takes_is_escaped():
    assert cell({"a": "\ud800"}) == '{"a": "\\ud800"}'


# B6 and B7: numbers and times


@override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="de")
def test_b6_separators_in_numbers_are_in_no_key_of_a_form_and_no_url(boss, celery_engine):
    record = execution(pk=1_234_567, state="waiting", waiting_for="approval")
    execution(pk=2_345_678, execution_id="x-2", state="pending")
    keys = [record.pk, 2_345_678]
    sent = {"action": "cancel_selected", "_selected_action": keys}
    confirmed = hidden_fields(boss.post(EXECUTIONS, sent))
    assert re.fullmatch(r"\d+", confirmed["_selected_action"])
    assert boss.post(EXECUTIONS, {**confirmed, "reason": "x"}).status_code == 302
    assert set(WorkflowExecutionRecord.objects.values_list("state", flat=True)) == {"cancelled"}
    for url in (EXECUTIONS, f"{EXECUTIONS}{record.pk}/change/", f"{OVERVIEW}?refresh=30"):
        text = text_of(boss.get(url))
        assert "1.234.567" not in "".join(re.findall(r'(?:href|value|content)="[^"]*"', text))
        chart = text.partition("gm-chart")[2].partition("</svg>")[0]
        for value in re.findall(r' (?:x|y|width|height|viewBox)="([^"]*)"', chart):
            assert re.fullmatch(r"[\d. ]+", value), value


def at(hour, day=1):
    return datetime(2026, 3, day, hour, 30, tzinfo=UTC)


@pytest.fixture
def in_tokyo():
    """Nine hours ahead: 15:30 and later is the next day there."""
    record = execution(
        created_at=at(12), started_at=at(12), ended_at=at(20), state="failed", error="boom"
    )
    WorkflowStep.objects.create(
        execution=record, name="approval", status="open", answerable=True, started_at=at(13),
        until=at(18),
    )  # fmt: skip
    with timezone.override("Asia/Tokyo"), override_settings(TIME_ZONE="Asia/Tokyo"):
        yield record


def test_b7_a_timeline_is_in_the_current_time_zone_and_has_a_date_where_the_day_changes(
    boss, in_tokyo
):
    text = text_of(boss.get(f"{EXECUTIONS}{in_tokyo.pk}/change/"))
    whens = re.findall(r'class="gm-when">(.*?)</time>', text)
    shown = [" ".join(re.sub(r"<[^>]+>", " ", one).split()) for one in whens]
    assert shown == ["2026-03-01 21:30:00", "21:30:00", "22:30:00", "2026-03-02 05:30:00"]
    assert "until 2026-03-02 03:30:00" in text
    assert "UTC" not in text
    assert re.findall(r'<time datetime="([^"]*)"', text)
    assert all("+09:00" in one for one in re.findall(r'<time datetime="([^"]*)"', text))
    assert "+00:00" not in text


def test_b7_lists_and_exports_are_in_the_current_time_zone_too(boss, in_tokyo):
    assert '"2026-03-01T21:30:00+09:00"' in text_of(boss.get(EXECUTIONS))
    [row] = export_of(boss, EXECUTIONS)
    assert (row["started_at"], row["ended_at"]) == (
        "2026-03-01T21:30:00+09:00", "2026-03-02T05:30:00+09:00",
    )  # fmt: skip


def test_b7_a_trace_is_in_the_current_time_zone(in_tokyo):
    out = StringIO()
    call_command("workflow_trace", "x-1", stdout=out)
    assert "2026-03-02 05:30:00" in out.getvalue()
    assert "until 2026-03-02 03:30:00" in out.getvalue()
    assert "UTC" not in out.getvalue()


# I4: query strings of acts


@pytest.mark.parametrize(
    "query", ["before=%00", "before=nonsense", "seen=%00", "before=%ff&seen=x"]
)
@pytest.mark.parametrize("name", ["retry", "answer", "cancel", "wake", "time_out", "resolve"])
def test_i4_no_query_string_breaks_the_page_of_an_act(boss, name, query):
    record = execution(handler_path="tests.testapp.flows.ask", waiting_for="approval")
    WorkflowStep.objects.create(execution=record, name="charge", status="started", once=True)
    url = reverse("admin:general_manager_execution_act", args=[record.pk, name])
    for data in ({}, {"before": "\x00"}, {"seen": "\x00"}):
        assert boss.get(f"{url}?{query}").status_code in (200, 404)
        assert boss.post(f"{url}?{query}", data).status_code in (200, 302, 404)


def test_the_result_of_a_step_with_a_secret_name_is_on_no_page(boss):
    record = execution(started_at=timezone.now())
    WorkflowStep.objects.create(
        execution=record, name="fetch access token", status="done", result="hunter2", once=True,
        finished_at=timezone.now(),
    )  # fmt: skip
    for url in (f"{EXECUTIONS}{record.pk}/change/", f"{EXECUTIONS}{record.pk}/act/retry/"):
        text = text_of(boss.get(url))
        assert "fetch access token" in text
        assert "hunter2" not in text
    for act in ("correct", "resolve"):
        response = boss.get(f"{EXECUTIONS}{record.pk}/act/{act}/")
        assert b"hunter2" not in response.content
    for form in ("text", "json"):
        out = StringIO()
        call_command("workflow_trace", "x-1", f"--format={form}", stdout=out)
        assert "hunter2" not in out.getvalue()


# I5: terminals


def test_i5_a_trace_forges_no_line_and_moves_no_terminal():
    text = "\x1b[2J\x07\u202eabc\rx\x9b"
    record = execution(
        execution_id="\x1b]0;x\n2026 ok", workflow_id=f"w{text}", error=f"{text}\nState  completed",
        input_data={"a": text, text: 1}, claimed_by=f"c{text}\nx", started_at=timezone.now(),
        correlation_id=f"k\n{text}",
    )  # fmt: skip
    WorkflowHistory.objects.create(
        execution=record, kind=HistoryKind.CANCELLED, by=f"b\n{text}", detail=f"d{text}\nState  ok"
    )
    out = StringIO()
    call_command("workflow_trace", record.execution_id, stdout=out)
    told = out.getvalue()
    assert set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\r]", told)) == set()
    assert r"\x1b[2J\x07\u202eabc\rx\x9b" in told
    assert [line for line in told.splitlines() if line.startswith(("State", "2026", "x"))] == []
    out = StringIO()
    call_command("workflow_trace", record.execution_id, "--format=json", stdout=out)
    assert json.loads(out.getvalue())["error"] == record.error
    assert set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\r]", out.getvalue())) == set()


def test_i5_a_list_of_what_a_term_names_forges_no_line():
    for number in range(2):
        execution(execution_id=f"x{number}\n\x1b[2J", workflow_id="w\u202e", correlation_id="same")
    out = StringIO()
    call_command("workflow_trace", "same", stdout=out)
    assert out.getvalue().count("\n") == 3
    assert r"x0\n\x1b[2J" in out.getvalue()
    assert out.getvalue().replace("\n", "").isprintable()


@pytest.mark.parametrize("known_id", ["\x1b[2J\u202e\n", "\x00", "a\x00b", "\ud800"])
def test_i5_a_wrong_id_is_named_visibly(known_id):
    with pytest.raises(CommandError) as caught:
        call_command("workflow_trace", known_id)
    assert str(caught.value).isprintable()
