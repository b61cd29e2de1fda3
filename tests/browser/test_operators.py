"""What people do on the operator's pages, done as they do it."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model

from general_manager.workflow import (
    LocalWorkflowEngine,
    WorkflowDefinition,
    configure_workflow_engine,
)
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
)
from tests.browser.conftest import page_of
from tests.integration.admin.test_taking_back import early
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

CONFIRM = "button.gm-primary"
ANGLE = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
EXECUTIONS = page_of("workflowexecutionrecord")
LISTS = [EXECUTIONS, page_of("workfloweventrecord"), page_of("deadletter"),
         page_of("workflowoutbox")]  # fmt: skip


def state_of(record):
    record.refresh_from_db()
    return record.state


def test_who_is_not_logged_in_is_asked_to_and_then_led_to_the_overview(browser, story):
    get_user_model().objects.create_superuser("boss", password="secret")
    browser.visit(page_of("overview"))
    assert browser.path.startswith("/admin/login/")
    assert "budget_approval" not in browser.text
    browser.fill("Username", "boss")
    browser.fill("Password", "secret")
    browser.press("Log in")
    assert browser.path == page_of("overview")
    assert "budget_approval" in browser.text


def test_the_overview_leads_to_what_waits_and_back(boss, story):
    boss.visit(page_of("overview"))
    boss.press("1 waiting")
    assert boss.path == f"{EXECUTIONS}?state=waiting"
    [row] = boss.texts("#result_list tbody tr")
    assert "budget_approval" in row
    boss.press_first("#result_list tbody a")
    assert boss.path.startswith(story.execution(story.waiting))
    boss.press("Answer…")
    for crumb in ("Executions", "Workflows", "Overview"):
        boss.press(crumb)
    assert boss.path == page_of("overview")


@pytest.mark.parametrize("where", ["overview", "answer"])
def test_the_way_back_stands_above_the_page(boss, story, where):
    here = {"overview": page_of("overview"), "answer": story.act(story.waiting, "answer")}
    boss.visit(here[where])
    way = ANGLE.join(boss.texts(".breadcrumbs li") or boss.texts(".breadcrumbs"))
    words = {
        "overview": ["Home", "Workflows", "Overview"],
        "answer": ["Home", "Workflows", "Executions", str(story.waiting), "Answer…"],
    }
    assert [one.strip() for one in way.split(ANGLE)] == words[where]


def test_the_overview_of_local_mode_shows_what_this_process_remembers(boss, settings):
    settings.GENERAL_MANAGER = {"WORKFLOW_MODE": "local"}
    engine = LocalWorkflowEngine()
    configure_workflow_engine(engine)
    try:
        engine.start(WorkflowDefinition("budget.approval", handler=flows.ask))
        engine.start(WorkflowDefinition("budget.report", handler=flows.two_steps))
        boss.visit(page_of("overview"))
        assert "budget.approval" in boss.text
        assert "budget.report" in boss.text
        assert "waiting" in boss.text
        assert "completed" in boss.text
    finally:
        configure_workflow_engine(None)


def test_the_overview_refreshes_only_when_asked_to(boss, story):
    boss.visit(page_of("overview"))
    assert boss.texts("meta[http-equiv]") == []
    boss.press("Refresh every 30 seconds")
    assert len(boss.texts("meta[http-equiv=refresh][content='30']")) == 1
    boss.press("Stop refreshing")
    assert boss.texts("meta[http-equiv]") == []


def test_an_empty_overview_shows_how_to_begin(boss, outbox):
    boss.visit(page_of("overview"))
    assert "Nothing has happened yet" in boss.text
    assert "get_event_registry().publish(event)" in boss.text


def test_a_wait_is_answered(boss, story, workers, celery_engine):
    boss.visit(story.execution(story.waiting))
    assert "Waiting for approval" in boss.text
    boss.press("Answer…")
    boss.fill("Answer", "{no")
    boss.press_first(CONFIRM)
    assert "This is not JSON" in boss.text
    boss.fill("Answer", "")
    boss.press_first(CONFIRM)
    assert "tick the box below for null" in boss.text
    assert state_of(story.waiting) == "waiting"
    boss.fill("Answer", '{"approved": true}')
    boss.press_first(CONFIRM)
    assert "Answered." in boss.text
    workers.run()
    boss.visit(story.execution(story.waiting))
    assert "by boss" in boss.text
    assert boss.texts(".gm-head .gm-badge") == ["completed"]
    done = celery_engine.status(story.waiting.execution_id)
    assert done.output_data == {"answer": {"approved": True}}


def test_an_execution_is_cancelled_with_a_reason(boss, story):
    boss.visit(story.execution(story.waiting))
    boss.press("Cancel execution…")
    boss.press("Back")
    assert boss.path == story.execution(story.waiting)
    assert state_of(story.waiting) == "waiting"
    boss.press("Cancel execution…")
    boss.fill("Reason", "too dear")
    boss.press_first(CONFIRM)
    assert "Cancelled." in boss.text
    assert "too dear" in boss.text
    assert boss.texts(".gm-button") == ["Retry from checkpoint…"]
    assert state_of(story.waiting) == "cancelled"


def test_selected_executions_are_counted_before_they_are_cancelled(boss, story):
    boss.visit(EXECUTIONS)
    boss.click("#action-toggle")
    boss.choose("select[name=action]", "cancel_selected")
    boss.press_first("#changelist .actions button")
    assert "1 of 3 can be cancelled." in boss.text
    assert state_of(story.waiting) == "waiting"
    boss.press_first(CONFIRM)
    assert "1: Cancelled." in boss.text
    assert state_of(story.waiting) == "cancelled"


def test_a_dead_letter_is_requeued(boss, story, workers):
    boss.visit(page_of("overview"))
    boss.press("tell_accounting")
    boss.press_first("#result_list tbody a")
    assert "does not answer" in boss.text
    boss.press("Requeue…")
    boss.press_first(CONFIRM)
    assert "Queued for redelivery with a fresh retry budget." in boss.text
    flows.troubles.clear()
    workers.deliver()
    assert "accounting" in flows.calls
    assert not WorkflowDeliveryAttempt.objects.filter(status="dead_letter").exists()
    assert WorkflowHistory.objects.get(kind="requeued").by == "boss"


def test_a_dead_letter_is_not_discarded_without_a_reason(boss, story):
    boss.visit(page_of("deadletter", "change", story.letter.pk))
    boss.press("Discard…")
    boss.click("button.gm-primary")
    assert boss.path.startswith(story.letter_act("discard"))
    boss.fill("Reason", "accounting knows")
    boss.press_first(CONFIRM)
    assert "Discarded." in boss.text
    story.letter.refresh_from_db()
    assert story.letter.status == "discarded"


def test_an_event_is_delivered_again_to_those_who_failed(boss, story, workers):
    boss.visit(page_of("workfloweventrecord", "change", story.event.pk))
    boss.press("Deliver again…")
    assert boss.run("return [...document.querySelectorAll(':checked')].map(x => x.value)") == [
        "tell_accounting"
    ]
    boss.press_first(CONFIRM)
    assert "Queued for redelivery to 1 handler." in boss.text
    flows.troubles.clear()
    workers.deliver()
    assert flows.calls.count("accounting") == 2


def test_a_wrong_answer_is_taken_back_and_asked_again(boss, story, workers, celery_engine):
    flows.troubles.clear()
    definition = WorkflowDefinition("budget", handler=early)
    execution = celery_engine.start(definition)
    workers.run()
    celery_engine.resume(execution.execution_id, True)
    workers.run()
    failed = WorkflowExecutionRecord.objects.get(execution_id=execution.execution_id)
    boss.visit(story.execution(failed))
    boss.press("Retry from checkpoint…")
    assert "All finished steps and answers are kept." in boss.text
    boss.press_first("tr:has(th) a[href*='before=approval']")
    assert "Retrying from before “approval”" in boss.text
    boss.press("Retry from checkpoint")
    assert "Taken back, to run again:" in boss.text
    workers.run()
    fresh = WorkflowExecutionRecord.objects.latest("pk")
    assert (fresh.state, fresh.waiting_for) == ("waiting", "approval")


def test_a_wait_is_timed_out(boss, story, workers):
    boss.visit(story.execution(story.waiting))
    boss.press("Time out now…")
    boss.press("Time out now")
    assert "Timed out manually: approval" in boss.text
    workers.run()
    assert state_of(story.waiting) == "completed"


def test_a_step_in_doubt_is_resolved(boss, story, workers):
    boss.visit(story.execution(story.doubtful))
    boss.press("Resolve step in doubt…")
    boss.tick("It happened")
    boss.fill("Result, if it happened", '"receipt"')
    boss.press_first(CONFIRM)
    assert "continued by a fresh execution" in boss.text
    workers.run()
    fresh = WorkflowExecutionRecord.objects.latest("pk")
    assert fresh.output_data == {"charged": "receipt"}


def test_undelivered_events_are_delivered_now(boss, story):
    flows.troubles.clear()
    boss.visit(page_of("workflowoutbox"))
    boss.press("Deliver now…")
    boss.press_first(CONFIRM)
    assert "processed" in boss.text
    assert "This is normal." in boss.text
    assert not WorkflowOutbox.objects.filter(available_at__isnull=False).exists()


def test_who_may_only_view_sees_every_page_and_no_button(viewer, story):
    for path in (page_of("overview"), *LISTS):
        viewer.visit(path)
        assert viewer.path == path
        assert viewer.texts(".object-tools a") == []
    for record in (story.waiting, story.failed, story.doubtful):
        viewer.visit(story.execution(record))
        assert "Timeline" in viewer.text
        assert viewer.texts(".gm-button") == []
    for path in (page_of("deadletter", "change", story.letter.pk),
                 page_of("workfloweventrecord", "change", story.event.pk)):  # fmt: skip
        viewer.visit(path)
        assert "does not answer" in viewer.text
        assert viewer.texts(".gm-button") == []
    assert not LogEntry.objects.exists()


def test_what_is_hostile_is_read_and_does_nothing(boss, story):
    for path in (story.execution(story.waiting),
                 page_of("workfloweventrecord", "change", story.event.pk)):  # fmt: skip
        boss.visit(path)
        boss.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert "<script>alert('x')</script>" in boss.text
        assert "hunter2" not in boss.text
        assert boss.texts("main img") == []


def test_a_signed_link_answers_once_and_only_when_its_button_is_pressed(
    browser, story, workers, celery_engine
):
    browser.visit(story.link)
    assert browser.title.startswith("Approve the trip \N{EN DASH} ")
    assert "Project 42" in browser.text
    assert state_of(story.waiting) == "waiting"
    browser.press("Approve the trip")
    assert "Your answer has been recorded." in browser.text
    workers.run()
    assert celery_engine.status(story.waiting.execution_id).output_data == {"answer": "yes"}
    browser.visit(story.link)
    assert "This has already been answered." in browser.text
    assert "The answer: Approve the trip" in browser.text
    assert browser.texts("button") == []
    assert [one for one in browser.complaints() if "409" not in one] == []
