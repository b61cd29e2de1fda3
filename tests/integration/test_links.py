"""Links that answer a wait, from a mail to the page behind them."""

from datetime import timedelta
from html import unescape
from urllib.parse import urlparse

import pytest
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from general_manager.workflow import WorkflowDefinition, resume_url
from tests.testapp import flows

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


def test_a_second_press_is_told_that_it_is_settled(asked, client, celery_engine, workers):
    client.post(link(asked, "yes"))
    again = client.post(link(asked, "no"))
    assert again.status_code == 409
    assert "nothing was changed" in again.content.decode()
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
        ((None, "approval"), {}, "execution"),
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
