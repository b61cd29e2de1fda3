"""Finding executions again: by subject, attributes, state and key, on every engine."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.utils import timezone

from general_manager.workflow import (
    ExecutionQuery,
    WorkflowDefinition,
    WorkflowExecutionNotFoundError,
    WorkflowState,
    manager_updated_event,
)
from general_manager.workflow.event_registry.registration import Registration
from tests.testapp import plays
from tests.testapp.models import Invoice, InvoiceDesk, Project, Seat, Ticket, UrgentInvoice

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


def define(handler=None, workflow_id="w", **options):
    return WorkflowDefinition(workflow_id, handler=handler, **options)


ASK, DONE, BAD = define(plays.ask), define(), define(plays.fail, "bad")


def ids(found):
    return [one.execution_id for one in found]


def start_many(engine, count, **options):
    """The ids, the newest first."""
    return [engine.start(DONE, {"n": n}, **options).execution_id for n in range(count)][::-1]


# The list


def test_executions_come_newest_first_page_by_page(engine, monkeypatch):
    monkeypatch.setattr("general_manager.workflow.executions.query.FIRST_PAGE", 2)
    monkeypatch.setattr("general_manager.workflow.executions.query.LARGEST_PAGE", 3)
    started = start_many(engine, 9)
    found = engine.executions()
    assert isinstance(found, ExecutionQuery)
    assert ids(found) == started
    assert ids(found) == started, "it can be read again"
    assert found.count() == 9
    assert found.first() == engine.status(started[0])
    assert found[3] == engine.status(started[3])


def test_the_list_is_lazy_and_sees_nothing_that_starts_while_it_is_read(engine, monkeypatch):
    monkeypatch.setattr("general_manager.workflow.executions.query.FIRST_PAGE", 2)
    found = engine.executions()
    started = start_many(engine, 5)
    seen = []
    for one in found:
        seen.append(one.execution_id)
        engine.start(DONE)
    assert seen == started


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 3), (2, 5), (3, None), (None, 2), (None, None), (5, 2), (6, 99), (9, 12), (0, 0)],
)
def test_a_slice_is_lazy_and_counts_from_the_newest(engine, monkeypatch, start, stop):
    monkeypatch.setattr("general_manager.workflow.executions.query.FIRST_PAGE", 2)
    started = start_many(engine, 7)
    part = engine.executions()[start:stop]
    assert isinstance(part, ExecutionQuery)
    assert ids(part) == started[start:stop]
    assert part.count() == len(started[start:stop])
    assert bool(part) == part.exists() == bool(started[start:stop])
    assert ids(part[1:3]) == started[start:stop][1:3]
    assert [one and one.execution_id for one in (part.first(),)] == (started[start:stop] or [None])[
        :1
    ]


def test_what_is_not_there_is_an_error_as_in_a_list(engine):
    start_many(engine, 2)
    with pytest.raises(IndexError):
        engine.executions()[2]
    for wrong in (-1, slice(-2, None), slice(None, -1), slice(0, 2, 2)):
        with pytest.raises(ValueError, match="newest"):
            engine.executions()[wrong]
    with pytest.raises(TypeError):
        engine.executions()["0"]
    nothing = engine.executions(workflow="other")
    assert (list(nothing), nothing.first(), nothing.count(), bool(nothing)) == ([], None, 0, False)


def test_the_list_shows_a_few_of_its_executions(engine):
    start_many(engine, 4)
    assert repr(engine.executions()).count("w ") == 3
    assert "..." in repr(engine.executions())
    assert repr(engine.executions(workflow="x")) == "<ExecutionQuery []>"


# What selects


def test_executions_are_found_by_workflow_and_state(engine, started):
    waiting, failed, done = started(ASK), started(BAD), started(DONE)
    gone = engine.cancel(started(ASK).execution_id)
    for wanted, expected in {
        "waiting": [waiting], WorkflowState.FAILED: [failed], "completed": [done],
        ("failed", "cancelled"): [gone, failed], ("completed", "waiting"): [done, waiting],
        "running": [],
    }.items():  # fmt: skip
        assert ids(engine.executions(state=wanted)) == ids(expected), wanted
    assert ids(engine.executions(workflow=BAD)) == ids(engine.executions(workflow="bad"))
    assert ids(engine.executions(workflow=BAD)) == ids([failed])
    assert ids(engine.executions(workflow=ASK, state="cancelled")) == ids([gone])
    assert not engine.executions(workflow=BAD, state="cancelled")


def test_executions_are_found_by_when_they_were_started(engine):
    before = timezone.now()
    (first,) = start_many(engine, 1)
    day = timedelta(days=1)
    assert ids(engine.executions(started_after=before - day)) == [first]
    assert ids(engine.executions(started_before=before + day)) == [first]
    assert not engine.executions(started_after=before + day)
    assert not engine.executions(started_before=before - day)
    between = {"started_after": before - timedelta(seconds=1), "started_before": before + day}
    assert ids(engine.executions(workflow="w", state="completed", **between)) == [first]
    assert engine.executions(**between).count() == 1
    ages = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    assert ids(engine.executions(started_after=ages[0], started_before=ages[1])) == [first]
    assert not engine.executions(started_after=ages[1])
    assert not engine.executions(started_before=ages[0])


def test_executions_are_found_by_their_subject(engine):
    invoice = Invoice.objects.create(number="7")
    project = Project.create(name="Apollo")
    seat = Seat.objects.create(row="A", number=3)
    ticket = Ticket.objects.create(title="help")
    subjects = [invoice, project, seat, ticket, f"  Order {uuid4()} "]
    started = [engine.start(DONE, subject=one).execution_id for one in subjects]
    for one, execution_id in zip(subjects, started, strict=True):
        assert ids(engine.executions(subject=one)) == [execution_id]
    assert engine.status(started[0]).subject == f"Invoice {invoice.pk}"
    assert engine.status(started[1]).subject == f"Project {project.identification['id']}"
    assert engine.status(started[2]).subject == 'Seat {"number": 3, "row": "A"}'
    assert engine.status(started[3]).subject == f"Ticket {ticket.pk}"
    assert ids(engine.executions(subject=f"Invoice:{invoice.pk}")) == [started[0]]
    assert not engine.executions(subject="Invoice")


def test_one_row_is_one_subject_whichever_class_it_was_read_by(engine):
    invoice = Invoice.objects.create(number="7")
    proxy = UrgentInvoice.objects.get(pk=invoice.pk)
    desk = InvoiceDesk(id=invoice.pk)
    started = [engine.start(DONE, subject=one).execution_id for one in (invoice, proxy, desk)]
    for one in (invoice, proxy, desk):
        assert ids(engine.executions(subject=one)) == started[::-1]


def test_an_execution_that_an_event_started_is_about_the_object_of_the_event(engine):
    started = []

    def call(payload_of, **options):
        event = manager_updated_event(manager="Project", changes={}, identification=payload_of)
        handler = lambda _: started.append(engine.start(DONE, **options).execution_id)  # noqa: E731
        Registration("x", handler).call(event)

    call({"id": 42})
    call({"id": 42}, subject="Invoice 7")
    call({"token": "s3cret"})
    assert ids(engine.executions(subject="Project 42")) == started[:1]
    assert ids(engine.executions(subject="Invoice 7")) == started[1:2]
    assert engine.status(started[2]).subject is None, "a key that is redacted is not shown"


VALUES = {
    "text": "a", "capital": "A", "number": 7, "digits": "7", "decimal": 2.5, "yes": True, "one": 1,
    "no": False, "zero": 0, "nothing": None, "empty": "", "quoted": 'a"b\\c', "percent": "%",
    "emoji": "\U0001f600", "negative": -3, "large": 2**53 - 1,
}  # fmt: skip


def test_attributes_are_compared_as_json_with_their_types(engine):
    started = {
        name: engine.start(DONE, attributes={"key": value, "by": "me"}).execution_id
        for name, value in VALUES.items()
    }
    engine.start(DONE)
    engine.start(DONE, attributes={"other": "a"})
    for name, value in VALUES.items():
        found = engine.executions(attributes={"key": value})
        assert ids(found) == [started[name]], name
        assert found[0].attributes == {"key": value, "by": "me"}
    assert ids(engine.executions(attributes={"key": 7.0, "by": "me"})) == [started["number"]]
    assert not engine.executions(attributes={"key": 7, "by": "you"})
    assert engine.executions(attributes={"by": "me"}).count() == len(VALUES)


def test_what_json_makes_of_an_attribute_is_what_is_compared(engine):
    key = uuid4()
    given = {"price": Decimal("2.50"), "id": key, "state": WorkflowState.FAILED}
    execution = engine.start(DONE, attributes=given)
    assert execution.attributes == {"price": "2.50", "id": str(key), "state": "failed"}
    assert ids(engine.executions(attributes=given)) == [execution.execution_id]


@pytest.mark.parametrize(
    ("attributes", "error", "text"),
    [
        ([("a", 1)], TypeError, "must be a mapping"),
        ({"a": [1]}, TypeError, "'a' must be a single value"),
        ({"a": {"b": 1}}, TypeError, "'a' must be a single value"),
        ({"a b": 1}, ValueError, "'a b' must have a name"),
        ({'a"': 1}, ValueError, "must have a name"),
        ({"x" * 101: 1}, ValueError, "must have a name"),
        ({str(n): n for n in range(21)}, ValueError, "21 entries, more than 20"),
        ({"a": "x" * 4_000}, ValueError, "more than 4000 bytes"),
        ({"a": 2**53}, ValueError, "pass it as text"),
        ({"a": b"x"}, ValueError, "attributes.a"),
    ],
)
def test_attributes_are_few_flat_and_small(engine, driver, attributes, error, text):
    for call in (engine.start, lambda _, attributes: engine.executions(attributes=attributes)):
        with pytest.raises(error, match=text):
            call(DONE, attributes=attributes)
    assert driver.count() == 0


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        ({"state": "done"}, ValueError, "state must be among pending"),
        ({"state": []}, ValueError, "at least one"),
        ({"state": 3}, TypeError, "state must be"),
        ({"workflow": 3}, TypeError, "workflow must be text"),
        ({"workflow": ""}, ValueError, "workflow must not be empty"),
        ({"subject": 3}, TypeError, "subject must be a model instance"),
        ({"subject": Invoice()}, ValueError, "saved object"),
        ({"correlation_id": ""}, ValueError, "correlation_id must not be empty"),
        ({"started_after": "now"}, TypeError, "started_after must be a datetime"),
        ({"started_before": datetime(2026, 1, 1)}, ValueError, "time zone"),  # noqa: DTZ001 - that is it
    ],
)
def test_a_wrong_argument_is_named_at_once(engine, wanted, error, text):
    with pytest.raises(error, match=text):
        engine.executions(**wanted)


@pytest.mark.parametrize(
    ("subject", "error"),
    [(3, TypeError), ("", ValueError), ("a\nb", ValueError), (Invoice(), ValueError)],
)
def test_a_subject_that_names_nothing_starts_nothing(engine, driver, subject, error):
    with pytest.raises(error, match="subject"):
        engine.start(DONE, subject=subject)
    assert driver.count() == 0


def test_a_continuation_keeps_subject_and_attributes(engine, started):
    failed = started(BAD, subject="Invoice 7", attributes={"customer": 7})
    fresh = engine.retry_from_checkpoint(failed.execution_id)
    assert (fresh.subject, fresh.attributes) == ("Invoice 7", {"customer": 7})
    found = engine.executions(subject="Invoice 7", attributes={"customer": 7})
    assert ids(found) == [fresh.execution_id, failed.execution_id]


def test_every_value_that_is_given_must_match(engine, started):
    wanted = started(ASK, correlation_id="k", subject="Invoice 7", attributes={"customer": 7})
    started(DONE, correlation_id="k2", subject="Invoice 7", attributes={"customer": 7})
    everything = {
        "workflow": ASK, "state": "waiting", "subject": "Invoice 7", "correlation_id": "k",
        "attributes": {"customer": 7}, "started_after": timezone.now() - timedelta(minutes=1),
    }  # fmt: skip
    assert ids(engine.executions(**everything)) == [wanted.execution_id]
    others = {
        "workflow": "other", "state": "failed", "subject": "Invoice 8", "correlation_id": "k2",
        "attributes": {"customer": 8}, "started_after": timezone.now() + timedelta(minutes=1),
    }  # fmt: skip
    for name, value in others.items():
        assert not engine.executions(**{**everything, name: value}), name


# By a key


def test_every_verb_takes_the_newest_execution_under_a_correlation_id(engine, started, driver):
    key = {"workflow": ASK, "correlation_id": "order-7"}
    first = started(ASK, correlation_id="order-7")
    started(define(plays.ask, "x"), correlation_id="order-7")
    assert engine.status(**key) == first
    assert engine.cancel(**key, reason="no").execution_id == first.execution_id
    second = engine.retry_from_checkpoint(**key)
    driver.settle()
    assert engine.status(**key).execution_id == second.execution_id != first.execution_id
    assert (engine.status(**key).waiting_for, engine.progress(**key)) == ("approval", None)
    engine.resume(signal={"ok": True}, wait="approval", **key)
    driver.settle()
    assert engine.result(workflow="w", correlation_id="order-7") == engine.result(
        second.execution_id
    )
    assert [one.kind for one in engine.history(**key)] == ["continues", "forgotten", "resumed"]


def test_a_timer_and_a_wait_are_ended_by_the_key(engine, started):
    key = {"workflow": "w", "correlation_id": "k"}
    started(define(plays.nap), correlation_id="k")
    assert engine.wake(**key).state in ("pending", "completed")
    started(define(plays.ask, "v"), correlation_id="k")
    assert engine.time_out(workflow="v", correlation_id="k").waiting_for is None


def test_a_key_that_nothing_has_is_named(engine):
    with pytest.raises(WorkflowExecutionNotFoundError, match=r"'w' has no execution .* 'k'"):
        engine.status(workflow=ASK, correlation_id="k")


@pytest.mark.parametrize(
    "named",
    [
        {"execution_id": "1", "workflow": "w", "correlation_id": "k"}, {"workflow": "w"},
        {"correlation_id": "k"}, {"execution_id": "1", "correlation_id": "k"},
    ],
)  # fmt: skip
def test_an_execution_is_named_by_its_id_or_by_its_whole_key(engine, named):
    for verb in (engine.status, engine.cancel, engine.resume, engine.result, engine.progress):
        with pytest.raises(TypeError, match="by its id, or by workflow= and correlation_id="):
            verb(**named)


# Texts that no database stores


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_i11_a_text_that_cannot_be_stored_is_found_nowhere(engine, text):
    key = engine.start(ASK, subject="Invoice 7").execution_id
    assert engine.executions(subject=text).count() == 0
    assert list(engine.executions(subject=text)) == []
    assert engine.find_wait(key, text) is None
    with pytest.raises(ValueError, match="reason must not contain"):
        engine.pause(ASK, reason=text)
    assert engine.pauses() == []


def test_a_start_past_the_end_of_the_calendar_is_refused(engine):
    late = datetime.max.replace(tzinfo=timezone.get_fixed_timezone(-300))
    with pytest.raises(ValueError, match="at is too late"):
        engine.start(DONE, at=late)
    soon = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    with pytest.raises(ValueError, match="at is too late"):
        engine.start(define(deadline=timedelta(days=2)), at=soon)
    assert engine.executions().count() == 0
