"""The workflows of a business object, on its own page; and what an execution's page says of it."""

import html
from io import StringIO

import pytest
from django.contrib.admin import site
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.urls import reverse

from general_manager.workflow import WorkflowDefinition, report
from general_manager.workflow.admin.panel import panel_of
from general_manager.workflow.executions.runner import run
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from tests.integration.conftest import data_statements
from tests.testapp import answering, families, flows, plays
from tests.testapp.models import Invoice, Ticket

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
    pytest.mark.urls("tests.integration.admin.urls_panel"),
]
ASK = WorkflowDefinition("approve", handler=flows.ask)
LIST = "/admin/general_manager/workflowexecutionrecord/"
HEADING = "Workflows</h2>"


@pytest.fixture
def invoice(db):
    return Invoice.objects.create(number="I-1")


def log_in(client, *codenames):
    user = get_user_model().objects.create_user("ada", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    return client


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def page(client, obj, site="admin"):
    response = client.get(f"/{site}/testapp/{obj._meta.model_name}/{obj.pk}/change/")
    assert response.status_code == 200
    return response.content.decode()


def test_the_page_of_an_object_lists_its_workflows_newest_first(boss, celery_engine, invoice):
    other = Invoice.objects.create(number="I-2")
    mine = [celery_engine.start(ASK, subject=invoice).execution_id for _ in range(2)]
    theirs = celery_engine.start(ASK, subject=other).execution_id
    text = page(boss, invoice)
    assert HEADING in text
    assert text.index(mine[1]) < text.index(mine[0])
    assert theirs not in text
    for record in WorkflowExecutionRecord.objects.filter(execution_id__in=mine):
        link = reverse("admin:general_manager_workflowexecutionrecord_change", args=[record.pk])
        assert f'href="{link}"' in text
    assert "Invoice line" in text, "the page's own inlines stay"
    assert "general_manager/admin.css" in text


def test_an_execution_that_an_event_about_the_object_caused_is_listed_too(
    boss, celery_engine, invoice
):
    """Though it was given another subject, or was stored when there were none."""
    WorkflowEventRecord.objects.create(
        event_id="e", event_type="a.b", payload={}, subject=f"Invoice {invoice.pk}"
    )
    for number, subject in enumerate((None, "Order 3")):
        WorkflowExecutionRecord.objects.create(
            execution_id=f"caused-{number}", workflow_id="w", caused_by="e", subject=subject
        )
    text = page(boss, invoice)
    assert "caused-0" in text
    assert "caused-1" in text


def test_without_a_workflow_the_panel_says_so_and_a_form_to_add_has_none(
    boss, celery_engine, invoice
):
    assert "No workflow has run for this object." in page(boss, invoice)
    assert HEADING not in boss.get("/admin/testapp/invoice/add/").content.decode()


def test_ten_are_shown_with_a_link_to_all(boss, celery_engine, invoice):
    for _ in range(12):
        celery_engine.start(ASK, subject=invoice)
    text = page(boss, invoice)
    assert text.count('<td><span class="gm-badge') == 10
    link = f"/admin/general_manager/workflowexecutionrecord/?q=Invoice+{invoice.pk}"
    assert f'href="{link}"' in text
    assert "12 " in boss.get(link).content.decode()


def test_the_panel_costs_a_fixed_number_of_statements(boss, celery_engine, invoice):
    counts = []
    celery_engine.start(ASK, subject=invoice)
    for _ in range(2):
        with data_statements() as statements:
            page(boss, invoice)
        counts.append(len([one for one in statements if "workflow" in one]))
        for _ in range(5):
            celery_engine.start(ASK, subject=invoice)
    assert counts[0] == counts[1] <= 5


def test_o2_the_panel_says_what_each_execution_waits_for(boss, celery_engine, invoice):
    """Whatever the list of executions says, the page of an object can say, too."""
    for name, handler, input_data in (
        ("approve", flows.ask, {}),
        ("paid", answering.wait_once, {}),
        ("nap", plays.nap, {}),
        ("book", families.book, {"pages": [{"n": n, "waits": True} for n in range(3)]}),
    ):
        definition = WorkflowDefinition(name, handler=handler)
        key = celery_engine.start(definition, input_data, subject=invoice).execution_id
        run(key, "default")
    text = page(boss, invoice)
    words = html.unescape(text)
    assert "waiting for “approval”" in words
    assert "waiting for “payment”" in words
    assert "sleeping" in words
    assert "waiting for children, 0 of 3" in words


def test_a_template_of_the_pages_own_stays(boss, celery_engine):
    ticket = Ticket.objects.create(title="help")
    execution = celery_engine.start(ASK, subject=ticket)
    text = page(boss, ticket)
    assert "gm-head" in text
    assert execution.execution_id in text


def test_o2_who_may_not_view_executions_sees_no_panel(client, celery_engine, invoice):
    execution = celery_engine.start(ASK, subject=invoice)
    log_in(client, "view_invoice", "change_invoice", "view_workfloweventrecord")
    text = page(client, invoice)
    assert HEADING not in text
    assert execution.execution_id not in text
    assert client.get(f"/invoice/{invoice.pk}/").content == b"<p></p>"


def test_o2_the_panel_shows_what_the_page_of_executions_shows(boss, celery_engine, invoice):
    hidden = celery_engine.start(WorkflowDefinition("hidden"), subject=invoice).execution_id
    shown = celery_engine.start(WorkflowDefinition("shown"), subject=invoice).execution_id
    for text in (page(boss, invoice), boss.get(f"/invoice/{invoice.pk}/").content.decode()):
        assert shown in text
        assert hidden not in text


def test_o2_a_site_without_our_pages_has_no_panel(boss, celery_engine, invoice):
    celery_engine.start(ASK, subject=invoice)
    assert HEADING not in page(boss, invoice, "bare")


def test_the_tag_shows_the_same_elsewhere_and_nothing_to_strangers(client, celery_engine, invoice):
    execution = celery_engine.start(ASK, subject=invoice)
    assert client.get(f"/invoice/{invoice.pk}/").content == b"<p></p>"
    log_in(client, "view_workflowexecutionrecord")
    text = client.get(f"/invoice/{invoice.pk}/").content.decode()
    assert execution.execution_id in text
    assert HEADING in text
    assert "general_manager/admin.css" in text


def test_in_local_mode_the_panel_shows_what_the_process_remembers(client, engine, invoice):
    execution = engine.start(ASK, subject=invoice)
    log_in(client, "view_workflowexecutionrecord", "view_invoice")
    assert execution.execution_id not in page(client, invoice), "this site narrows what is seen"


@pytest.mark.urls("tests.urls")
def test_the_panel_of_local_mode_needs_the_permission_too(rf, engine, invoice, admin_user):
    execution = engine.start(ASK, subject=invoice)
    request = rf.get("/")
    request.user = admin_user
    panel = panel_of(invoice, site, request)
    assert panel is not None
    [line] = panel.lines
    assert execution.execution_id in line.execution
    assert line.note == "approval"
    request.user = get_user_model().objects.create_user("bob", is_staff=True)
    assert panel_of(invoice, site, request) is None


def say_how_far(data):
    report("progress", data["progress"])
    report("phase", "sending")


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        ({"done": 3, "of": 10}, ['value="0.3000" max="1"', "3 of 10 (30 %)"]),
        (0.5, ['value="0.5000" max="1"', "50%"]), ("almost", ["<bdi>almost</bdi>"]),
        ({"done": 12, "of": 10}, ['value="1.0000"']), ({"done": 3, "of": 0}, ["&quot;of&quot;: 0"]),
        ("<script>", ["&lt;script&gt;"]), ({"done": True, "of": "x"}, ["&quot;of&quot;"]),
    ],
)  # fmt: skip
def test_progress_is_a_bar_on_the_execution_and_on_its_object(
    boss, celery_engine, workers, invoice, progress, shown
):
    handler = WorkflowDefinition("work", handler=say_how_far)
    execution = celery_engine.start(handler, {"progress": progress}, subject=invoice)
    workers.run()
    own = boss.get(f"{LIST}by-id/{execution.execution_id}/",
                   follow=True).content.decode()  # fmt: skip
    for text in (own, page(boss, invoice)):
        for words in shown:
            assert words in text
    assert "&quot;phase&quot;: &quot;sending&quot;" in own


def test_an_executions_page_and_trace_show_subject_and_attributes(boss, celery_engine, invoice):
    execution = celery_engine.start(
        ASK, subject=invoice, attributes={"customer": 7, "api_key": "hunter2"}
    )
    text = boss.get(f"{LIST}by-id/{execution.execution_id}/",
                    follow=True).content.decode()  # fmt: skip
    assert "&quot;customer&quot;: 7" in text
    assert f'href="/admin/testapp/invoice/{invoice.pk}/change/"' in text
    assert f"Invoice {invoice.pk}" in text
    out = StringIO()
    call_command("workflow_trace", execution.execution_id, stdout=out)
    assert f"Invoice {invoice.pk}" in out.getvalue()
    assert '"customer": 7' in out.getvalue()
    assert "hunter2" not in text + out.getvalue()


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("customer=7", {"number", "text"}), ("customer=7 region=eu", {"number"}),
        ("region=eu", {"number"}), ("customer=8", set()), ("name=a b", {"spaces"}),
        ("open=true", {"flag"}), ("=7", set()), ("customer=", set()), ("customer=[1]", set()),
        ("customer=1e999", set()), ("customer=99999999999999999999", set()), ("a'b=1", set()),
    ],
)  # fmt: skip
def test_the_list_is_searched_by_attributes(boss, celery_engine, term, found):
    given = {
        "number": {"customer": 7, "region": "eu"}, "text": {"customer": "7", "region": "us"},
        "spaces": {"name": "a b"}, "flag": {"open": True}, "none": {},
    }  # fmt: skip
    ids = {
        name: celery_engine.start(ASK, attributes=one).execution_id for name, one in given.items()
    }
    response = boss.get(LIST, {"q": term})
    assert response.status_code == 200
    text = response.content.decode()
    assert {name for name, one in ids.items() if one in text} == found
