"""`assert_crash_safe`: whom it passes, and what it finds."""

from datetime import timedelta
from itertools import count
from uuid import uuid4

import pytest
from django.apps import apps
from django.core.mail import send_mail
from django.utils import timezone
from django.utils.crypto import get_random_string

from general_manager.workflow import (
    CompensationIncomplete,
    PermanentFailure,
    Retry,
    StepFailed,
    WorkflowDefinition,
    child,
    child_result,
    current_execution_id,
    gather,
    resume_url,
    saga,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.testing import assert_crash_safe, sent_mails
from tests.testapp import flows
from tests.testapp.models import Receipt, ReceiptCopy, Tag

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


@pytest.fixture(autouse=True)
def _nothing_called():
    flows.calls.clear()
    flows.troubles.clear()


# What is safe, and passes.


def issue(text, **values):
    receipt = Receipt.objects.create(text=text, **values)
    receipt.refresh_from_db()
    return receipt


def output_with_keys(data):
    receipt = step("issue", lambda: issue("one").pk)
    step("other", lambda: issue("two").pk)
    copy = step("copy", lambda: ReceiptCopy.objects.create(receipt_id=receipt, number="7").pk)
    return {"receipt": receipt, "path": f"/receipts/{receipt}/copies/{copy}/", "all": [receipt]}


def output_with_generated_values(data):
    def keep():
        receipt = issue("kept")
        return {"token": receipt.token, "code": receipt.code, "at": receipt.issued_at,
                "stored": receipt.stored_at, "day": receipt.issued_at.date()}  # fmt: skip

    kept = step("keep", keep)
    step("after", flows.write, "after")
    return {**kept, "text": f"Your code is {kept['code']}, token {kept['token']}."}


def key_in_another_column(data):
    receipt = step("issue", lambda: issue("one").pk)
    step(
        "copy", lambda: ReceiptCopy.objects.create(receipt_id=receipt, number=f"R-{receipt}").number
    )


def random_values_of_steps(data):
    number = step("number", lambda: int(get_random_string(9, "123456789")))
    text = step("text", get_random_string, 20)
    step("write", lambda: issue(f"{number} {text}").text)
    return {"number": number, "text": text}


def times_from_nowhere(data):
    step("write", flows.write, "x")
    return {"ended_at": timezone.now(), "id": str(uuid4())}


def values_that_are_given(data):
    step("write", lambda: issue("x", issued_at=timezone.now(), token=uuid4(), code="given").code)


def seconds_of_now(data):
    step("write", lambda: issue(timezone.now().strftime("%H:%M:%S")).text)
    flows.stumble()


@pytest.mark.parametrize(
    "workflow",
    [
        output_with_keys,
        output_with_generated_values,
        key_in_another_column,
        random_values_of_steps,
        times_from_nowhere,
        values_that_are_given,
        seconds_of_now,
    ],
)
def test_keys_times_and_random_values_do_not_make_a_workflow_unsafe(workflow):
    assert_crash_safe(workflow)
    assert not Receipt.objects.exists()


def test_an_output_is_safe_though_keys_differ_from_run_to_run():
    """As they do on databases whose sequences a rollback does not turn back."""
    used = iter(range(100, 1000, 7))

    def create(data):
        return {"id": step("issue", lambda: issue("x", pk=next(used)).pk)}

    assert_crash_safe(create)


# What is not safe, and is found.


def key_of_another_row(data):
    """Returns the first row's key, or after a crash the second's."""
    first = step("first", lambda: issue("one").pk)
    second = step("second", lambda: issue("two").pk)
    flows.note("run")
    runs = len(flows.calls)
    step("last", flows.calls.clear)
    return {"id": first if runs == 1 else second}


def token_made_between_steps(data):
    token = str(uuid4())
    step("keep", lambda: issue("x", token=token).text)
    step("after", flows.write, "after")
    return {"token": token}


def time_made_between_steps(data):
    now = timezone.now()
    step("keep", lambda: issue("x", issued_at=now).text)
    step("after", flows.write, "after")
    return {"at": now}


def random_made_between_steps(data):
    code = get_random_string(12)
    step("keep", lambda: issue("x", code=code).text)
    step("after", flows.write, "after")
    return {"code": code}


def row_with_defaults_between_steps(data):
    step("first", flows.note, "first")
    issue("between")
    step("second", flows.note, "second")


def row_in_a_step_that_is_not_atomic(data):
    step("issue", lambda: issue("x").text, atomic=False)


def many_to_many_between_steps(data):
    model = apps.get_model("testapp", "Project")
    project = step("project", lambda: model.objects.create(name="p").pk)
    tag = step("tag", lambda: Tag.objects.create(name="t").pk)
    tags = model.objects.get(pk=project).tags
    toggle = tags.remove if tags.filter(pk=tag).exists() else tags.add
    toggle(tag)
    step("use", flows.note, "x")


def text_that_counts(data):
    before = Tag.objects.count()
    Tag.objects.get_or_create(name="x")
    step("use", flows.note, "x")
    return {"before": f"{before} tags before"}


def update_between_steps(data):
    step("make", lambda: Tag.objects.create(name="x").name)
    tag = Tag.objects.get()
    tag.name += "!"
    tag.save()
    step("use", flows.note, "x")


@pytest.mark.parametrize(
    "workflow",
    [
        key_of_another_row,
        token_made_between_steps,
        time_made_between_steps,
        random_made_between_steps,
        row_with_defaults_between_steps,
        row_in_a_step_that_is_not_atomic,
        many_to_many_between_steps,
        text_that_counts,
        update_between_steps,
    ],
)
def test_each_way_to_be_unsafe_is_found(workflow):
    with pytest.raises(AssertionError, match="After a crash"):
        assert_crash_safe(workflow)


def test_the_message_names_the_rows_that_differ():
    with pytest.raises(
        AssertionError, match=r"(?s)rows of testapp.Receipt.*in addition, once: text='between'"
    ):
        assert_crash_safe(row_with_defaults_between_steps)


def test_an_answer_to_a_question_that_is_never_asked_is_an_error_here_too():
    def approve(data):
        return {"answer": wait_for("approval", timeout=timedelta(days=1))}

    with pytest.raises(AssertionError, match=r"'aproval' \(did you mean 'approval'\?\)"):
        assert_crash_safe(flows.ask, answers={"aproval": 1})
    assert assert_crash_safe(approve, answers={"approval": 1}) == {"answer": 1}


def test_what_a_workflow_raises_undisturbed_comes_out():
    def refuse(data):
        raise PermanentFailure("no")

    with pytest.raises(PermanentFailure):
        assert_crash_safe(refuse)


# Effects outside of the database.


def send(subject, body="Hello"):
    send_mail(subject, body, "us@example.com", ["ada@example.com"])


def mail_in_a_plain_step(data):
    step("first", flows.note, "first")
    step("mail", send, "Welcome")
    step("last", flows.note, "last")


def mail_in_a_once_step(data):
    step("first", flows.note, "first")
    step("mail", send, "Welcome", once=True)
    step("last", flows.note, "last")


def mail_between_steps(data):
    step("first", flows.note, "first")
    send("Welcome")
    step("last", flows.note, "last")


def mail_of_an_ask(data):
    return {"by": wait_for("approval", ask=lambda: send(f"Approve {current_execution_id()}"))}


def mail_with_a_key(data):
    key = step("issue", lambda: issue("x").pk)
    code = step("code", get_random_string, 10)
    step("mail", send, f"Receipt {key}", f"It is {code}, from {timezone.now()}", once=True)


def test_a_mail_in_a_step_that_runs_once_is_crash_safe():
    assert_crash_safe(mail_in_a_once_step, effects=sent_mails)
    assert_crash_safe(mail_with_a_key, effects=sent_mails)


def test_a_mail_in_a_plain_step_is_sent_at_least_once_and_that_is_said():
    with pytest.raises(AssertionError, match="at least once, by design") as caught:
        assert_crash_safe(mail_in_a_plain_step, effects=sent_mails)
    assert "After a crash in step 'mail' the effects that 'sent_mails'" in str(caught.value)
    assert "in addition, once: mail {'subject': 'Welcome'" in str(caught.value)
    assert "database differs" not in str(caught.value)


def link_by_mail(data):
    def ask():
        link = resume_url(current_execution_id(), "approval", True)
        send("Please answer", f"It is here: https://x.org{link} (a week)")

    return {"ok": wait_for("approval", ask=ask)}


def test_the_second_in_which_a_link_was_signed_is_no_difference(monkeypatch):
    seconds = count(1_800_000_000)
    monkeypatch.setattr("django.core.signing.time.time", lambda: next(seconds))
    assert_crash_safe(
        link_by_mail, answers={"approval": True}, effects=sent_mails, at_least_once=True
    )


def test_a_step_s_own_repetition_can_be_accepted():
    assert_crash_safe(mail_in_a_plain_step, effects=sent_mails, at_least_once=True)
    assert_crash_safe(
        mail_of_an_ask, answers={"approval": 1}, effects=sent_mails, at_least_once=True
    )


@pytest.mark.parametrize("at_least_once", [True, False])
def test_a_mail_between_steps_is_found_whatever_is_accepted(at_least_once):
    with pytest.raises(AssertionError, match=r"(?s)'sent_mails'.*Code between steps may run again"):
        assert_crash_safe(mail_between_steps, effects=sent_mails, at_least_once=at_least_once)


def test_the_database_is_compared_beside_other_effects():
    with pytest.raises(AssertionError, match=r"rows of testapp\.Receipt"):
        assert_crash_safe(row_with_defaults_between_steps, effects=sent_mails)


@pytest.mark.parametrize(
    "effects",
    [lambda: len(flows.calls), lambda: list(flows.calls), lambda: {"calls": list(flows.calls)}],
)
def test_a_number_a_list_or_a_mapping_of_effects_is_compared_by_what_was_added(effects):
    def quiet(data):
        step("first", flows.note, "first", once=True)
        sleep("night", timedelta(hours=8))
        step("second", flows.note, "second", once=True)

    def loud(data):
        step("first", flows.note, "first", once=True)
        flows.note("between")
        step("second", flows.note, "second", once=True)

    flows.note("was there before")
    assert_crash_safe(quiet, effects=effects)
    with pytest.raises(AssertionError, match=r"in addition, once: .*(between|1 more)"):
        assert_crash_safe(loud, effects=effects)


def test_an_effect_that_a_crash_loses_is_missing():
    """It is kept for later in the process, which dies."""
    waiting = []

    def forget(data):
        waiting.clear()
        step("first", lambda: waiting.append("told"))
        step("second", flows.note, "second", once=True)
        flows.calls.extend(waiting)

    with pytest.raises(AssertionError, match="missing, once: 'told'"):
        assert_crash_safe(forget, effects=lambda: [one for one in flows.calls if one == "told"])


def seat_or_sorry(data):
    try:
        seat = step("seat", str, "7A", retry=Retry(max_attempts=2))
    except StepFailed as failure:
        return {"sorry": step("apologise", tag_once, failure.error)}
    return {"seat": step("confirm", tag_once, seat)}


def tag_once(name):
    Tag.objects.create(name=name)
    return name


def test_a_step_that_fails_on_purpose_leads_to_the_same_branch_after_each_crash():
    full = {"seat": ValueError("full")}
    assert assert_crash_safe(seat_or_sorry, failing=full) == {"sorry": "full"}
    assert assert_crash_safe(seat_or_sorry) == {"seat": "7A"}


def fail_after_a_step(data):
    step("before", tag_once, "before")
    step("pay", int, "7")


def test_a_handler_that_fails_as_declared_is_safe_if_it_fails_the_same_after_each_crash():
    broken = {"pay": ConnectionError("down")}
    assert assert_crash_safe(fail_after_a_step, failing=broken, raises=ConnectionError) == {}
    with pytest.raises(ConnectionError):
        assert_crash_safe(fail_after_a_step, failing=broken)
    with pytest.raises(AssertionError, match="did not raise"):
        assert_crash_safe(fail_after_a_step, raises=ConnectionError)


def test_a_failing_step_that_is_never_reached_is_named():
    with pytest.raises(AssertionError, match="misspelt"):
        assert_crash_safe(fail_after_a_step, failing={"misspelt": ValueError("x")})


def trip(data):
    with saga("trip") as undo:
        step("a", tag_once, "a")
        undo("undo a", untag, "a")
        step("b", tag_once, "b")
        undo("undo b", untag, "b")
        step("c", tag_once, "c")


def untag(name):
    Tag.objects.get(name=name).delete()  # fails if it is done twice


def test_a_saga_is_undone_to_the_same_rows_after_each_crash():
    assert assert_crash_safe(trip) == {}
    assert assert_crash_safe(trip, failing={"c": ValueError("x")}, raises=ValueError) == {}


def test_an_undo_that_fails_on_purpose_leaves_the_compensation_incomplete():
    broken = {"c": ValueError("x"), "undo b": ConnectionError("down")}
    assert_crash_safe(trip, failing=broken, raises=CompensationIncomplete)


# Children are not run: their outputs are answers.

PAGE = WorkflowDefinition("page", handler=lambda data: {})


def two_gathers(data):
    parts = gather("pages", [child(PAGE, {"n": n}) for n in range(2)])
    step("bind", flows.write, "bound")
    cover = child_result("cover", PAGE)
    return {"parts": parts, "cover": cover}


def test_outputs_of_children_are_answers_that_were_asked():
    answers = {"pages": [{"n": 1}, {"n": 2}], "cover": [{"n": 3}]}
    output = assert_crash_safe(two_gathers, answers=answers)
    assert output == {"parts": answers["pages"], "cover": {"n": 3}}


@pytest.mark.parametrize(
    ("given", "what"), [([{}], "1 outputs"), ([{}] * 3, "3 outputs"), ({"n": 1}, "{'n': 1}")]
)
def test_an_answer_that_does_not_fit_the_children_names_the_gather_and_both_numbers(given, what):
    with pytest.raises(AssertionError) as raised:
        assert_crash_safe(two_gathers, answers={"pages": given, "cover": [{}]})
    assert f"gather('pages') has 2 children, and its answer is {what}:" in str(raised.value)
