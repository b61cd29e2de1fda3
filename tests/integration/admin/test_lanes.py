"""Lanes in the admin, in health, in the trace and in metrics."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.test import override_settings
from django.urls import reverse

from general_manager.workflow import WorkflowEvent
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowHistory,
    WorkflowLane,
    WorkflowOutbox,
)
from general_manager.workflow.operations.health import check_health
from general_manager.workflow.operations.listeners import listeners
from general_manager.workflow.operations.trace import find_trace
from general_manager.workflow.outbox.drain import drain
from tests.integration.admin import urls_scoped
from tests.integration.conftest import confirm, hidden_fields

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "archive"]),
]
LIST = "/admin/general_manager/workflowlane/"


@pytest.fixture
def boss(client):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    return client


def staff(client, *permissions):
    user = get_user_model().objects.create_user("ada", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


@pytest.fixture
def heard():
    return []


@pytest.fixture
def blocked(outbox, heard):
    """A lane of three events whose first is a dead letter."""

    outbox.register(
        "changed",
        handler=lambda event: heard.append(event.event_id),
        in_order=True,
        registration_id="erp",
        validator=refuse,
    )
    outbox.publish_many(
        WorkflowEvent(one, "a.b", {}, "changed", ordering_key="order:7 <b>")
        for one in ("first", "second", "third")
    )
    drain()
    return outbox


def refuse(event):
    if event.event_id == "first" and not fixed:
        raise ValueError("<script>alert(1)</script>")


fixed: list[bool] = []


@pytest.fixture(autouse=True)
def _nothing_fixed():
    fixed.clear()
    yield
    fixed.clear()


def lane():
    return WorkflowLane.objects.get()


def page():
    return reverse("admin:general_manager_workflowlane_change", args=[lane().pk])


def act(name):
    return reverse("admin:general_manager_lane_act", args=[lane().pk, name])


def text(client, url):
    response = client.get(url)
    assert response.status_code == 200, url
    return response.content.decode()


@pytest.mark.usefixtures("blocked")
def test_the_list_shows_each_key_with_its_length_and_what_blocks_it(boss):
    shown = text(boss, LIST)
    assert "order:7 &lt;b&gt;" in shown
    assert ">blocked</span>" in shown
    assert ">dead letter</span>" in shown
    assert ">3</td>" in shown


@pytest.mark.usefixtures("blocked")
def test_the_page_shows_the_dead_letter_and_what_waits_behind_it(boss):
    shown = text(boss, page())
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert shown.index("first") < shown.rindex("second") < shown.rindex("third")
    assert ">queued</span>" in shown
    event = WorkflowOutbox.objects.get(event__event_id="second").event
    listed = text(
        boss, reverse("admin:general_manager_workfloweventrecord_change", args=[event.pk])
    )
    assert ">queued</span>" in listed
    assert "Queued in order for" in listed
    assert "order:7 &lt;b&gt;" in listed


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("requeue", {}, ["first", "second", "third"]),
        ("skip", {"reason": "later"}, ["second", "third"]),
        ("discard", {"reason": "never"}, ["second", "third"]),
    ],
)
def test_an_act_lets_the_lane_go_on(boss, heard, name, values, expected):
    fixed.append(True)
    confirm(boss, act(name), **values)
    drain()
    assert heard == expected
    assert not WorkflowLane.objects.exists()
    kinds = set(WorkflowHistory.objects.values_list("kind", flat=True)) - {"attempt_failed"}
    assert kinds == {{"requeue": "requeued", "skip": "passed_over", "discard": "discarded"}[name]}
    status = WorkflowDeliveryAttempt.objects.get(outbox__event__event_id="first").status
    assert status == {"requeue": "completed", "skip": "dead_letter", "discard": "discarded"}[name]


@pytest.mark.usefixtures("blocked")
def test_who_may_only_look_acts_on_nothing(client):
    staff(client, "view_workflowlane", "view_workflowdeliveryattempt")
    shown = text(client, page())
    for name in ("requeue", "skip", "discard"):
        assert act(name) not in shown
        assert client.get(act(name)).status_code == 403
        assert client.post(act(name), {"reason": "x"}).status_code == 403
    assert lane().blocked_since is not None


@pytest.mark.usefixtures("blocked")
def test_each_act_needs_its_own_permission(client):
    staff(client, "view_workflowlane", "view_workflowdeliveryattempt", "skip_lane")
    shown = text(client, page())
    assert act("skip") in shown
    assert act("discard") not in shown
    assert client.get(act("discard")).status_code == 403
    assert client.get(act("skip")).status_code == 200


@pytest.mark.usefixtures("blocked")
def test_without_the_permission_nobody_sees_lanes_nor_the_events_in_them(client):
    staff(client, "view_workfloweventrecord")
    assert client.get(LIST).status_code == 403
    assert client.get(page()).status_code == 403
    client.logout()
    staff_lane = get_user_model().objects.create_user("bob", is_staff=True)
    staff_lane.user_permissions.set(Permission.objects.filter(codename="view_workflowlane"))
    client.force_login(staff_lane)
    shown = text(client, page())
    assert "alert(1)" not in shown
    assert "second" not in shown


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("site", ["narrowed", "row_by_row"])
def test_a_lane_shows_and_acts_on_no_event_out_of_its_readers_scope(boss, site):
    with override_settings(ROOT_URLCONF="tests.integration.admin.urls_scoped"):
        start = f"/{site}/general_manager/workflowlane/{lane().pk}"
        shown = text(boss, f"{start}/change/")
        assert "alert(1)" not in shown
        assert "first" not in shown
        for name in ("requeue", "skip", "discard"):
            assert f"/act/{name}/" not in shown
            assert boss.get(f"{start}/act/{name}/").status_code == 404
        WorkflowEventRecord.objects.update(source=urls_scoped.MINE)
        assert "alert(1)" in text(boss, f"{start}/change/")
        assert boss.get(f"{start}/act/skip/").status_code == 200


@pytest.mark.usefixtures("blocked")
def test_an_act_on_a_lane_that_has_changed_does_nothing(boss, heard):
    url = act("skip")
    shown = boss.get(url)
    WorkflowDeliveryAttempt.objects.all().discard("by another")
    boss.post(url, {**hidden_fields(shown), "reason": "x"})
    assert not WorkflowHistory.objects.filter(kind="passed_over").exists()


@pytest.mark.usefixtures("blocked")
def test_health_names_a_blocked_key_and_the_overview_links_to_it(boss):
    found = {one.code: one for one in check_health().troubles}
    assert found["blocked-lane"].message == "A dead letter blocks the events of order:7 <b>."
    assert found["blocked-lane"].count == 1
    shown = text(boss, reverse("admin:general_manager_overview_changelist"))
    assert LIST in shown


def test_health_counts_events_whose_publisher_did_not_know_the_registration(outbox):
    outbox.publish(WorkflowEvent("1", "a.b", {}, "changed", ordering_key="k"))
    outbox.register("changed", handler=lambda event: None, in_order=True)
    drain()
    found = {one.code: one for one in check_health().troubles}
    assert found["late-items"].count == 1


@pytest.mark.usefixtures("blocked")
def test_the_trace_of_a_queued_event_says_so(capsys):
    trace = find_trace("second")
    assert trace is not None
    assert trace.facts["ordering_key"] == "order:7 <b>"
    assert [one.about for one in trace.moments if one.what == "queued_in_order"] == ["erp"]
    call_command("workflow_trace", "second")
    assert "queued in order erp" in capsys.readouterr().out


@pytest.mark.usefixtures("blocked")
def test_registrations_are_listed_with_their_order():
    (found,) = listeners()
    assert found.options["in_order"] is True
    assert found.options["on_dead"] == "block"
