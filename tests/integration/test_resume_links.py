"""Links that answer a wait, from a mail to the page behind them."""

from datetime import timedelta
from html import unescape
from io import StringIO
from urllib.parse import urlencode, urlparse

import pytest
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.management import call_command
from django.db import InterfaceError, OperationalError, connection
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format

from general_manager.workflow import (
    LocalWorkflowEngine,
    Retry,
    WorkflowDefinition,
    WorkflowEngine,
    WorkflowEvent,
    configure_workflow_engine,
    continue_as_new,
    get_workflow_engine,
    resume_url,
    wait_for,
)
from general_manager.workflow.core.redaction import REDACTED
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.resume_links import LINK_SALT
from tests.integration.conftest import hidden_fields
from tests.testapp import flows
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def asked(celery_engine, workers):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    workers.run()
    return celery_engine.status(execution.execution_id)


def link(asked, signal="yes", wait="approval", **options):
    return resume_url(asked, wait, signal, label="Approve the trip", **options)


def answer_of(engine, workers, asked):
    workers.run()
    return (engine.status(asked.execution_id).output_data or {}).get("answer")


def test_following_a_link_asks_and_changes_nothing(asked, client, celery_engine):
    page = client.get(link(asked))
    assert page.status_code == 200
    assert "Approve the trip" in page.content.decode()
    assert client.head(link(asked)).status_code == 200
    assert celery_engine.status(asked.execution_id).state == "waiting"


def test_pressing_the_button_answers(asked, client, celery_engine, workers):
    page = client.post(link(asked, {"approved": True}))
    assert "has been recorded" in page.content.decode()
    assert answer_of(celery_engine, workers, asked) == {"approved": True}
    [entry] = celery_engine.history(asked.execution_id)
    assert (entry.kind, entry.by) == ("resumed", "signed link")


def test_the_history_names_the_user_who_pressed_the_button(asked, client, celery_engine):
    client.force_login(get_user_model().objects.create_user("ada"))
    client.post(link(asked))
    assert celery_engine.history(asked.execution_id)[0].by == "ada"


def test_the_button_needs_the_pages_own_form(asked, celery_engine):
    strict = Client(enforce_csrf_checks=True)
    assert strict.post(link(asked)).status_code == 403
    assert celery_engine.status(asked.execution_id).state == "waiting"


def test_browsers_say_where_the_button_was_pressed(asked, client):
    """Told to send no referrer, they would call it "null", which Django's CSRF check refuses."""
    page = client.get(link(asked)).content.decode()
    assert '<meta name="referrer" content="same-origin">' in page


def test_a_second_press_learns_that_it_is_settled(asked, client, celery_engine, workers):
    client.post(link(asked, "yes"))
    again = client.post(link(asked, "no"))
    assert again.status_code == 409
    assert "Nothing was changed" in again.content.decode()
    assert "Approve the trip" in again.content.decode()
    assert answer_of(celery_engine, workers, asked) == "yes"
    assert client.get(link(asked)).status_code == 409


def test_an_answer_to_another_question_is_refused(asked, client, celery_engine):
    assert client.post(link(asked, wait="payment")).status_code == 409
    assert celery_engine.status(asked.execution_id).state == "waiting"


def test_a_link_that_was_changed_is_not_valid(asked, client):
    path = link(asked)
    changed = path[:-8] + ("a" if path[-8] != "a" else "b") + path[-7:]
    assert client.get(changed).status_code == 404
    assert client.post(changed).status_code == 404


@pytest.mark.parametrize("verb", ["get", "post"])
def test_a_link_expires(asked, client, celery_engine, verb):
    old = link(asked, expires=timedelta(seconds=-1))
    page = getattr(client, verb)(old)
    assert page.status_code == 410
    assert "expired" in page.content.decode()
    assert celery_engine.status(asked.execution_id).state == "waiting"


def test_a_link_to_what_was_pruned_says_so(asked, client, celery_engine):
    from general_manager.workflow.models import WorkflowExecutionRecord

    path = link(asked)
    WorkflowExecutionRecord.objects.all().delete()
    assert client.get(path).status_code == 404


def test_o2_what_a_link_says_is_escaped(asked, client):
    page = client.get(resume_url(asked, "approval", None, label="<script>alert(1)</script>"))
    text = page.content.decode()
    assert "<script>" not in text
    assert "<script>alert(1)</script>" in unescape(text)


def test_a_link_begins_with_the_sites_address(asked):
    assert link(asked).startswith("/workflows/answer/")
    with override_settings(GENERAL_MANAGER={"WORKFLOW_BASE_URL": "https://shop.test/"}):
        url = urlparse(link(asked))
    assert (url.scheme, url.netloc) == ("https", "shop.test")
    assert url.path.startswith("/workflows/answer/")


def test_a_link_answers_on_the_local_engine_too(engine, client):
    execution = engine.start(WorkflowDefinition("w", handler=flows.ask))
    client.post(link(execution))
    assert engine.status(execution.execution_id).output_data == {"answer": "yes"}


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((5, "approval"), {}, "execution"),
        ((["x"], "approval"), {}, "execution"),
        (("x", 5), {}, "wait"),
        (("x", None), {}, "wait"),
        (("x", "approval"), {"label": 5}, "label"),
        (("x", "approval"), {"label": None}, "label"),
        (("x", "approval"), {"expires": 5}, "expires"),
        (("x", "approval"), {"expires": None}, "expires"),
    ],
)
def test_a_wrong_argument_of_resume_url_is_named(arguments, options, name):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        resume_url(*arguments, **options)


def page_of(response):
    return unescape(response.content.decode())


def test_b5_the_other_link_shows_by_which_answer_and_when_it_was_settled(asked, client, workers):
    decline = resume_url(asked, "approval", {"approved": False}, label="Decline")
    client.post(resume_url(asked, "approval", {"approved": True}, label="Approve it"))
    for moment in ("at once", "when the execution has completed"):
        page = client.get(decline)
        assert page.status_code == 409, moment
        text = page_of(page)
        assert "has already been answered" in text
        assert "<strong><bdi>Approve it</bdi></strong>" in text
        assert "<form" not in text
        step = WorkflowStep.objects.get(name="approval")
        assert date_format(timezone.localtime(step.finished_at), "DATETIME_FORMAT") in text
        workers.run()


def test_b5_an_answer_without_a_label_is_shown_redacted(asked, client, celery_engine):
    celery_engine.resume(asked.execution_id, {"approved": True, "password": "hunter2"})
    text = page_of(client.get(link(asked)))
    assert '"approved": true' in text
    assert "hunter2" not in text


def ask_for_a_secret(input_data):
    return {"length": len(wait_for("new password"))}


def test_the_answer_to_a_wait_with_a_secret_name_is_shown_nowhere(client, celery_engine, workers):
    execution = celery_engine.start(WorkflowDefinition("w", handler=ask_for_a_secret))
    workers.run()
    user = get_user_model().objects.create_superuser("boss")
    record = WorkflowExecutionRecord.objects.get()
    act = reverse("admin:general_manager_execution_act", args=[record.pk, "answer"])
    client.force_login(user)
    seen = hidden_fields(client.get(act))
    celery_engine.resume(execution.execution_id, "hunter2", wait="new password")
    page = reverse("admin:general_manager_workflowexecutionrecord_change", args=[record.pk])
    out = StringIO()
    call_command("workflow_trace", execution.execution_id, stdout=out)
    shown = [
        client.get(resume_url(execution, "new password", "other")).content.decode(),
        client.get(f"{act}?{urlencode({'seen': seen['seen']})}").content.decode(),
        client.get(page).content.decode(),
        out.getvalue(),
    ]
    for text in shown:
        assert "hunter2" not in text
        assert REDACTED in text


def test_b5_the_page_names_the_site_and_the_object(client, celery_engine, outbox, workers):
    outbox.register("project_changed", handler=ask_about)
    payload = {"manager": "Project", "identification": {"id": 42}}
    outbox.publish(WorkflowEvent("e", "shop.changed", payload, event_name="project_changed"))
    workers.deliver()
    workers.run()
    asked = celery_engine.executions(subject="Project 42")[0]
    text = page_of(client.get(link(asked)))
    assert "Project 42" in text
    assert "testserver" in text


def ask_about(event):
    get_workflow_engine().start(WorkflowDefinition("w", handler=flows.ask))


def test_b14_title_and_text_are_the_askers_and_not_the_waits_internal_name(asked, client):
    url = link(asked, title="Budget for <Apollo>", text="It costs 7 more.\n\nMay it?")
    page = client.get(url).content.decode()
    assert "<title>Budget for &lt;Apollo&gt;" in page
    assert "<h1>Budget for &lt;Apollo&gt;</h1>" in page
    assert "<p>May it?</p>" in page
    assert "approval" not in page
    assert "approval" not in client.get(link(asked)).content.decode()


def test_a_link_that_was_sent_before_titles_were_known_still_works(asked, client):
    content = [asked.execution_id, "approval", "yes", "Approve", 3600]
    token = signing.dumps(content, salt=LINK_SALT, compress=True)
    assert client.get(reverse("general_manager:resume", args=[token])).status_code == 200


def test_i13_a_question_that_is_not_open_yet_is_not_called_settled(client, celery_engine, workers):
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.ask_twice))
    for early in ("first", "second"):
        for verb in (client.get, client.post):
            page = verb(link(execution, wait=early))
            assert page.status_code == 409
            assert "is not open yet" in page_of(page)
            assert "Try again" in page_of(page)
    workers.run()
    assert client.get(link(execution, wait="first")).status_code == 200
    assert "is not open yet" in page_of(client.get(link(execution, wait="second")))
    assert celery_engine.status(execution.execution_id).waiting_for == "first"


def asks_and_stumbles(input_data):
    return {"answer": wait_for("approval", ask=flows.stumble)}


def test_i13_between_two_attempts_an_open_question_takes_the_answer(client, celery_engine, workers):
    flows.troubles[:] = [ConnectionError("no mail server")]
    retry = Retry(max_attempts=3, base=3600)
    execution = celery_engine.start(WorkflowDefinition("w", handler=asks_and_stumbles, retry=retry))
    workers.run()
    assert celery_engine.status(execution.execution_id).state == "pending"
    assert client.get(link(execution)).status_code == 200
    assert "has been recorded" in page_of(client.post(link(execution)))
    workers.let_rest_pass()
    workers.run()
    assert celery_engine.status(execution.execution_id).output_data == {"answer": "yes"}


def test_i13_what_is_not_asked_any_more_says_so(asked, client, celery_engine, workers):
    celery_engine.cancel(asked.execution_id)
    for verb in (client.get, client.post):
        page = verb(link(asked))
        assert page.status_code == 409
        assert "is no longer needed" in page_of(page)
        assert "Try again" not in page_of(page)


def test_i13_a_wait_that_timed_out_says_so(asked, client, celery_engine):
    celery_engine.time_out(asked.execution_id)
    page = client.post(link(asked))
    assert page.status_code == 409
    assert "time to answer has passed" in page_of(page)
    assert "Nothing was changed" in page_of(page)


def test_i13_an_answer_to_an_earlier_open_question_waits_for_its_turn(
    client, celery_engine, workers
):
    flows.troubles[:] = [ValueError("no mail server")]
    execution = celery_engine.start(WorkflowDefinition("w", handler=flows.ask_a_then_b))
    workers.run()
    assert celery_engine.status(execution.execution_id).waiting_for == "b"
    page = client.post(link(execution, wait="a"))
    assert page.status_code == 409
    assert "Another question has to be answered first" in page_of(page)
    assert "Try again" in page_of(page)


@pytest.mark.parametrize("middleware", [[], None])
@pytest.mark.parametrize("kind", ["open", "pressed", "broken", "put"])
def test_i13_its_headers_do_not_depend_on_the_projects_middleware(
    asked, settings, middleware, kind
):
    if middleware is not None:
        settings.MIDDLEWARE = middleware
    client = Client()
    url = link(asked) if kind != "broken" else "/workflows/answer/nonsense/"
    verb = {"open": "get", "broken": "get", "pressed": "post", "put": "put"}[kind]
    page = getattr(client, verb)(url)
    assert page["X-Frame-Options"] == "DENY"
    assert page["X-Content-Type-Options"] == "nosniff"
    assert page["Referrer-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in page["Content-Security-Policy"]
    assert "default-src 'none'" in page["Content-Security-Policy"]
    assert "no-store" in page["Cache-Control"]


def test_i13_the_policy_allows_the_style_sheet_wherever_it_is_served(asked, client, settings):
    assert "style-src 'self';" in client.get(link(asked))["Content-Security-Policy"]
    settings.STATIC_URL = "https://cdn.test/static/"
    policy = client.get(link(asked))["Content-Security-Policy"]
    assert "style-src 'self' https://cdn.test;" in policy


@pytest.mark.parametrize("verb", ["get", "post"])
@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_g14_a_link_opened_while_the_database_is_away_answers_a_plain_503(
    asked, client, settings, verb, atomic, error
):
    settings.TEMPLATES = [
        {**settings.TEMPLATES[0], "OPTIONS": {"context_processors": [f"{__name__}.ask_the_site"]}}
    ]

    def away(execute, sql, *arguments):
        raise error("server closed the connection unexpectedly")

    url = link(asked)
    connection.settings_dict["ATOMIC_REQUESTS"] = atomic
    try:
        with connection.execute_wrapper(away):
            page = getattr(client, verb)(url)
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert page.status_code == 503
    assert page["Retry-After"] == "60"
    assert "no-store" in page["Cache-Control"]
    assert page["X-Frame-Options"] == "DENY"
    assert "Please try again in a few minutes" in page_of(page)


def ask_the_site(request):
    """A project's context processor that asks the database."""
    return {"tags": list(Tag.objects.all())}


def test_o5_a_wrong_press_is_taken_back_and_asked_again(asked, client, celery_engine, workers):
    client.post(link(asked, "no"))
    celery_engine.cancel(asked.execution_id)
    fresh = celery_engine.retry_from_checkpoint(asked.execution_id, before="approval")
    workers.run()
    assert "is no longer needed" in page_of(client.get(link(asked, wait="other")))
    assert client.get(link(fresh)).status_code == 200
    client.post(link(fresh, "yes"))
    assert answer_of(celery_engine, workers, fresh) == "yes"


def test_an_engine_with_the_four_verbs_only_answers_links_too(client):
    class Plain(WorkflowEngine):
        def __init__(self):
            self.inner = LocalWorkflowEngine()

        def start(self, *arguments, **options):
            return self.inner.start(*arguments, **options)

        def resume(self, execution_id=None, signal=None, *, wait=None, label="", **_):
            return self.inner.resume(execution_id, signal, wait=wait)

        def cancel(self, execution_id=None, *, reason=None, compensate=False, **_):
            return self.inner.cancel(execution_id, reason=reason, compensate=compensate)

        def status(self, execution_id=None, **_):
            return self.inner.status(execution_id)

    engine = Plain()
    configure_workflow_engine(engine)
    try:
        execution = engine.start(WorkflowDefinition("w", handler=flows.ask))
        assert client.get(link(execution)).status_code == 200
        assert client.post(link(execution)).status_code == 200
        assert engine.status(execution.execution_id).output_data == {"answer": "yes"}
        assert client.get(link(execution)).status_code == 409
    finally:
        configure_workflow_engine(None)


def ask_for_ever(data):
    answer = wait_for("approval", timeout=timedelta(days=1), ask=lambda: flows.note("mail"))
    continue_as_new({"before": answer})


def test_a_link_of_an_execution_that_continued_as_new_answers_no_later_question(
    client, celery_engine, workers
):
    first = celery_engine.start(WorkflowDefinition("w", handler=ask_for_ever))
    workers.run()
    old, again = link(first), link(first, "no")
    assert "has been recorded" in client.post(old).content.decode()
    workers.run()
    workers.run()
    now = celery_engine.status(first.execution_id)
    assert (now.input_data, now.waiting_for) == ({"before": "yes"}, "approval")
    for url in (old, again):
        assert "no longer needed" in client.get(url).content.decode()
        assert "not recorded" in client.post(url).content.decode()
    assert celery_engine.status(first.execution_id).waiting_for == "approval"
    assert "has been recorded" in client.post(link(now)).content.decode()
