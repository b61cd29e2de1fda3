"""Every url of our pages, walked by everybody, over rows that hold whatever a database takes.

The urls are read off the site, so a new one is walked too.
"""

import re
from datetime import timedelta
from html import unescape
from itertools import product

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.models import JSONField, Value
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from general_manager.workflow.admin.acts.seen import sign
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowLane,
    WorkflowLimitKey,
    WorkflowOutbox,
    WorkflowPause,
    WorkflowSchedule,
    WorkflowStep,
)
from general_manager.workflow.operations.health import check_health
from tests.integration.admin import urls_scoped
from tests.integration.admin.urls_scoped import MINE
from tests.integration.conftest import hidden_fields

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

TABLES = (
    WorkflowEventRecord, WorkflowOutbox, WorkflowDeliveryAttempt, WorkflowExecutionRecord,
    WorkflowStep, WorkflowHistory, WorkflowSchedule, WorkflowLane, WorkflowPause,
)  # fmt: skip
SECRET = "hunter2secret"
TEXTS = {
    "markup": "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ x }}%s{0}",
    "lines": "first\nsecond\r\n\tthird/../fourth?a=b&c#d%2f%00;e\\",
    "dots": "..",
    "slashes": "//example.com/%2e%2e/",
    "turned": "\u202eabc\x1b[2J\x07\u2066\u200b\ufeff\u2028",
    "wide": "🙂é" * 60,
}
if connection.vendor != "postgresql":
    TEXTS["nothing"] = ""
    TEXTS["nul"] = "nul\x00text"
PAYLOADS = [
    [], [1, "x"], "text", "", 5, Value(None, JSONField()), True,
    {"manager": None}, {"manager": ["x"], "identification": "x"},
    {"manager": "Project", "identification": {"id": "../../logout/\n"}, "changes": ["x"]},
    {"manager": "LogEntry", "identification": {"id": ["x"]}, "changes": "x"},
    {"manager": "<b>\u202e", "identification": [1, {"password": SECRET}], "changes": {"a": None}},
    {"manager": "Project", "identification": {"id": 10**40},
     "changes": {"<i>": {"old": SECRET, "new": 1}, "api_key": {"old": SECRET, "new": SECRET},
                 "list": [1], "secret": SECRET}, "password": SECRET},
    {"headers": [["Authorization", SECRET]], "fields": [{"name": "token", "value": SECRET}]},
]  # fmt: skip
PAYLOADS[12]["changes"]["<i>"]["old"] = "plain"  # type: ignore[index]


def fill(text, tenant, number, payload, states=("failed", "waiting")):
    """A row in each table, with *text* wherever text goes."""
    short = f"{text}{number}"[-250:]
    event = WorkflowEventRecord.objects.create(
        event_id=f"{short}", event_type=text[:250], event_name=text[:250], source=tenant,
        payload=payload, metadata={"token": SECRET, text[:50]: text},
    )  # fmt: skip
    now = timezone.now()
    entry = WorkflowOutbox.objects.create(
        event=event, status="claimed", claim_token=SECRET[:32], claimed_by=text[:250],
        claimed_at=now, expected_registrations=[text], available_at=now + timedelta(hours=1),
    )  # fmt: skip
    letters = [
        WorkflowDeliveryAttempt.objects.create(
            outbox=entry, registration_id=f"{status}{short}"[:250], status=status,
            error_class=text[:250], error=text, traceback=text, finished_at=now,
            first_failed_at=now, claim_token=SECRET[:32],
        )
        for status in ("dead_letter", "completed", "running")
    ]  # fmt: skip
    for state in states:
        execution = WorkflowExecutionRecord.objects.create(
            execution_id=f"{text[:30]}{number}{state[0]}", workflow_id=text[:250], version=tenant,
            state=state, handler_path=text[:500], input_data=payload, output_data=payload,
            metadata={"continues": text, "handler_path": text, "token": SECRET},
            correlation_id=text[:250], retry=payload, caused_by=event.event_id,
            wake_at=now - timedelta(hours=1), claim_token=SECRET[:32], claimed_by=text[:250],
            waiting_for=text[:250], error=text, traceback=text, started_at=now,
            ended_at=now if state in ("failed", "completed") else None, attempts=1,
        )  # fmt: skip
        for kind in ("open", "started"):
            WorkflowStep.objects.create(
                execution=execution, name=f"{kind}{text}"[:250], status=kind, result=payload,
                answerable=kind == "open", until=now,
            )  # fmt: skip
        WorkflowHistory.objects.create(
            execution=execution, kind="continued", by=text[:250], detail=text
        )
    WorkflowHistory.objects.create(delivery=letters[0], kind="requeued", by=text, detail=text)
    WorkflowLane.objects.create(
        lane=f"{tenant}{number}"[:32], ordering_key=f"{short}{tenant}"[-250:],
        registration_id=text[:250], available_at=None, blocked_since=now,
    )  # fmt: skip
    WorkflowDeliveryAttempt.objects.filter(pk=letters[0].pk).update(
        lane=f"{tenant}{number}"[:32], in_lane=True
    )
    WorkflowPause.objects.create(
        kind="workflow" if number % 2 else "registration", name=f"{short}{tenant}"[-250:],
        reason=text, paused_by=text[:250], lifted_at=now if number % 3 else None,
    )  # fmt: skip
    made = WorkflowSchedule.objects.create(
        name=f"{short}{tenant}"[-250:], workflow_id=text[:250], timing=text[:500], tz=text[:250],
        missed="latest", overlap="skip", version=tenant[:16], versions=payload or [], error=text,
        last_correlation_id=text[:250], last_started_at=now, next_at=now + timedelta(hours=1),
        paused_at=now if number % 2 else None, paused_by=text[:250], pause_reason=text,
    )  # fmt: skip
    WorkflowHistory.objects.create(schedule=made, kind="paused", by=text, detail=text)


@pytest.fixture
def hostile():
    payloads = PAYLOADS
    for number, text in enumerate(TEXTS.values()):
        fill(text, MINE, number, payloads[number])
    for number, payload in enumerate(PAYLOADS[len(TEXTS) :]):
        fill(f"theirs{number}", "theirs", number, payload, ["failed"])


def person(name, **values):
    user = get_user_model().objects.create_user(name, is_staff=True, **values)
    ours = Permission.objects.filter(content_type__app_label="general_manager")
    user.user_permissions.set(ours.filter(codename__startswith="view_"))
    return user


def act_names(page):
    module = __import__(type(page).__module__, fromlist=["ACTS"])
    return [*getattr(module, "ACTS", {}), "nonsense"]


def keys_of(page):
    rows = page.model._default_manager.order_by("pk")
    return [*rows.values_list("pk", flat=True), 0, 2**63 - 1, 10**30]


def samples(page, name):
    """What stands in a url for the parameter *name*."""
    if name == "key":
        return keys_of(page)
    if name == "object_id":
        return [*keys_of(page), "x", "_00", "1/2", "é", "-1"]
    if name == "name":
        return act_names(page)
    if name in ("event_id", "execution_id"):
        return ["x", "%00", "a%00b", "..%2f", "%0a", "%ff%fe", "é", "e" * 2_000, "theirs..1"]
    pytest.fail(f"There are no samples for a url's {name}: add some.")


def urls_of(site, prefix):
    """Each url of our pages, with each sample; the same page may have a thousand."""
    for model, page in site._registry.items():
        if model._meta.app_label != "general_manager":
            continue
        start = f"{prefix}{model._meta.app_label}/{model._meta.model_name}/"
        for pattern in page.get_urls():
            route = str(pattern.pattern)
            names = re.findall(r"<\w+:(\w+)>", route)
            for values in product(*(samples(page, name) for name in names)):
                url = route
                for value in values:
                    url = re.sub(r"<\w+:\w+>", str(value).replace("\\", ""), url, count=1)
                yield start + url


def few_urls(site, prefix):
    """A url for each pattern and first, last and odd samples: for walks that multiply them."""
    seen = {}
    for url in urls_of(site, prefix):
        seen.setdefault(re.sub(r"\d+|%\w\w|x+|é|e{9,}", "#", url), url)
    return list(seen.values())


def lists(prefix="/admin/"):
    return [
        f"{prefix}general_manager/{one}/"
        for one in ("overview", "workflowexecutionrecord", "workfloweventrecord", "deadletter",
                    "workflowoutbox", "workflowschedule", "workflowlane", "workflowpause")
    ]  # fmt: skip


def read(response):
    if response.streaming:
        return b"".join(response.streaming_content).decode()
    return response.content.decode()


def stored():
    """Everything in our tables and the log."""
    return {model: list(model._default_manager.order_by("pk").values()) for model in TABLES} | {
        LogEntry: LogEntry.objects.count()
    }


QUERIES = [
    "p=99999999999999999999999", "p=-1", "p=%00", "p=x", "q=%00", "q=%ff", "q=theirs", "q=%0a..",
    "state=%00", "workflow=%00", "type=%00", "handler=%00", "started=%00", "ended=x", "overdue=%00",
    f"workflow={'w' * 3_000}", "workflow=x&workflow=y", "type=%e2%80%ae", "o=1.-2.x", "o=%00",
    "e=1", "_facets=True", "_popup=1", "_to_field=claim_token", "_to_field=%00", "all=", "=",
    "%00=1", "refresh=%00", "_changelist_filters=%00%26p%3d", "q=" + "x" * 3_000, "_facets=1&q=a",
]  # fmt: skip
LOOKUPS = [
    "payload__password__startswith", "payload__regex", "payload__icontains", "metadata__token",
    "claim_token", "claim_token__startswith", "input_data__contains", "output_data__isnull",
    "error__startswith", "outbox__claim_token", "outbox__event__payload__password",
    "event__payload__has_key", "deliveries__claim_token", "steps__result__startswith",
    "execution__metadata", "pk__in", "id__gt", "dedup_key", "workflow_id__startswith", "caused_by",
    "outbox__deliveries__error__regex", "history__detail", "expected_registrations", "state__in",
    "source",
]  # fmt: skip


def test_no_page_breaks_whatever_is_stored_and_no_secret_is_on_it(client, hostile):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    for key, value in zip(WorkflowExecutionRecord.objects.all(), PAYLOADS, strict=False):
        WorkflowExecutionRecord.objects.filter(pk=key.pk).update(metadata=value)
    for url in urls_of(admin.site, "/admin/"):
        response = client.get(url)
        assert response.status_code in (200, 302, 403, 404), (url, response.status_code)
        text = read(response)
        assert SECRET not in text, url
        assert "<script>alert" not in text, url
        assert "<img src=x" not in text, url
        for letter in "\u202e\x1b\u2066\u200b\x00":
            assert letter not in text, (url, letter)


def test_every_link_on_a_page_leads_to_a_page(client, hostile):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    missing = "/admin/general_manager/workflowexecutionrecord/by-id/"
    pages = [*lists()]
    for model in ("workflowexecutionrecord", "workfloweventrecord"):
        page = reverse(f"admin:general_manager_{model}_changelist")
        failed = WorkflowExecutionRecord.objects.filter(state="failed")
        rows = WorkflowEventRecord.objects.all() if "event" in model else failed
        pages += [f"{page}{row.pk}/change/" for row in rows]
    walked: set[str] = set()
    for page in pages:
        links = re.findall(r'href="(/[^"]*general_manager[^"]*)"', read(client.get(page)))
        for found in set(links):
            url = unescape(found)
            if url.endswith((".css", ".js")) or url in walked:
                continue
            walked.add(url)
            response = client.get(url)
            # What an execution continues may be pruned.
            # And what holds a NUL is read by SQLite up to there.
            may_miss = url.startswith(missing) or "/by-id/nul/" in url
            expected = (200, 302, 404) if may_miss else (200, 302)
            assert response.status_code in expected, (page, url)


@pytest.mark.parametrize("query", QUERIES)
def test_no_query_string_breaks_a_list(client, hostile, query):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    for url in lists():
        response = client.get(f"{url}?{query}")
        assert response.status_code in (200, 302, 400), (url, query)
        assert SECRET not in read(response)


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_i1_nothing_can_be_asked_for_but_what_the_page_offers(client, hostile, lookup):
    client.force_login(person("viewer"))
    for url in lists()[1:]:
        for value in ("h", "x", "True", "%00"):
            response = client.get(f"{url}?{lookup}={value}")
            assert response.status_code == 400, (url, lookup, value)


@pytest.mark.parametrize("term", [SECRET, SECRET[:4], "hunter"])
def test_i1_a_search_is_no_oracle(client, hostile, term):
    client.force_login(person("viewer"))
    for url in lists()[1:]:
        found = [
            re.findall(r'name="_selected_action" value="(\d+)"', read(client.get(f"{url}?q={one}")))
            for one in (term, f"zzzz{term[4:]}")
        ]
        assert found[0] == found[1], url


def posts(page):
    """What a form, a script or an attacker may send to any url; also what we signed ourselves."""
    keys = [str(key) for key in keys_of(page)]
    kept = [int(key) for key in keys if int(key) < 2**63]
    named = sign([[key, how] for key in kept for how in (["x"], None)])
    odd = ["x", "\x00", "9" * 30, "-1", "1,234", "", "é"]
    actions = [one[0].__name__ if not isinstance(one[0], str) else one[0]
               for one in page._get_base_actions()]  # fmt: skip
    yield {}
    yield {"confirmed": "yes"}
    yield {"confirmed": "yes", "answer": "\x00", "reason": "\x00", "step": "\x00", "to": ["\x00"]}
    yield {"confirmed": "yes", "answer": "[" * 10_000, "reason": "x" * 10_000, "to": ["x"]}
    yield {"post": "yes", "_save": "1", "_saveasnew": "1", "state": "completed"}
    for action in [*actions, "delete_selected", "nonsense", "\x00"]:
        for extra in (
            {},
            {"confirmed": "yes", "reason": "r"},
            {"confirmed": named, "reason": "r"},
            {"select_across": "1", "index": "x"},
        ):
            yield {"action": action, "_selected_action": [*odd, *keys], **extra}
            yield {"action": action, "_selected_action": odd, **extra}


def test_no_post_breaks_a_page(client, hostile, celery_engine):
    client.force_login(get_user_model().objects.create_superuser("boss"))
    for page in [one for model, one in admin.site._registry.items()
                 if model._meta.app_label == "general_manager"]:  # fmt: skip
        start = f"/admin/general_manager/{page.model._meta.model_name}/"
        for url in [one for one in few_urls(admin.site, "/admin/") if one.startswith(start)]:
            for data in posts(page) if url in lists() else list(posts(page))[:5]:
                response = client.post(url, data)
                assert response.status_code in (200, 302, 400, 403, 404), (url, data)
                assert SECRET not in read(response)
        broken = client.post(
            start, b"--x\r\nbroken", content_type="multipart/form-data; boundary=x"
        )
        assert broken.status_code in (200, 302, 400, 403)


@pytest.mark.parametrize("who", ["viewer", "nobody", "inactive", "anonymous", "member"])
def test_nobody_acts_without_the_permission(client, hostile, who, celery_engine):
    if who == "viewer":
        client.force_login(person("viewer"))
    elif who == "nobody":
        client.force_login(get_user_model().objects.create_user("nobody", is_staff=True))
    elif who == "inactive":
        client.force_login(person("inactive", is_active=False))
    elif who == "member":
        client.force_login(get_user_model().objects.create_user("member"))
    before = stored()
    for model, page in admin.site._registry.items():
        if model._meta.app_label != "general_manager":
            continue
        start = f"/admin/general_manager/{model._meta.model_name}/"
        for url in [one for one in few_urls(admin.site, "/admin/") if one.startswith(start)]:
            for data in posts(page) if url in lists() else list(posts(page))[:5]:
                response = client.post(url, data)
                text = read(response)
                assert response.status_code in (200, 302, 400, 403, 404), (url, data)
                if who != "viewer":
                    assert "theirs" not in text, url
                    assert "first" not in text, url
    assert stored() == before


@pytest.mark.parametrize("who", ["nobody", "inactive", "anonymous", "member"])
def test_i3_without_permission_every_id_has_the_same_answer(client, hostile, who):
    if who == "nobody":
        client.force_login(get_user_model().objects.create_user("nobody", is_staff=True))
    elif who == "inactive":
        client.force_login(person("inactive", is_active=False))
    elif who == "member":
        client.force_login(get_user_model().objects.create_user("member"))
    answers: dict[str, set[tuple[int, str]]] = {}
    for url in urls_of(admin.site, "/admin/"):
        response = client.get(url)
        text = read(response)
        assert "theirs" not in text.replace("theirs..1", "")
        pattern = re.sub(r"/(-?\d+|x|_00|1/2|%.*?|e+|a%00b|theirs[^/]*)/", "/#/", url)
        where = response.get("Location", "").split("?")[0] if who != "nobody" else ""
        answers.setdefault(pattern, set()).add((response.status_code, where))
    assert answers
    for pattern, each in answers.items():
        codes = {code for code, _ in each}
        # Urls that no pattern of ours takes are Django's, who redirects or does not find them.
        assert codes <= {302, 403, 404, 301}, (pattern, each)
        assert len(codes - {404, 301}) <= 1, (pattern, each)


def their_keys(model):
    which = {
        WorkflowEventRecord: {"source": "theirs"}, WorkflowExecutionRecord: {"version": "theirs"},
        WorkflowOutbox: {"event__source": "theirs"},
        WorkflowDeliveryAttempt: {"outbox__event__source": "theirs"},
        WorkflowLane: {"ordering_key__endswith": "theirs"},
    }[model._meta.concrete_model]  # fmt: skip
    return set(model._default_manager.filter(**which).values_list("pk", flat=True))


@pytest.fixture
def tenants():
    states = ("failed", "waiting", "running", "completed")
    fill("ours", MINE, 1, {"manager": "Project", "identification": {"id": 1}}, states)
    about = {"manager": "Theirs", "identification": {"id": "theirs"}}
    fill("theirs", "theirs", 2, about, states)
    # Where one's rows name the other's, on purpose or by chance.
    theirs = WorkflowEventRecord.objects.get(source="theirs")
    own = WorkflowExecutionRecord.objects.filter(version=MINE)
    own.filter(state="failed").update(correlation_id="shared", workflow_id="shared", caused_by="o")
    WorkflowExecutionRecord.objects.filter(version="theirs", state="failed").update(
        correlation_id="shared", workflow_id="shared", error="theirs failed"
    )
    own.filter(state="waiting").update(caused_by=theirs.event_id)
    mine = WorkflowEventRecord.objects.get(source=MINE)
    WorkflowExecutionRecord.objects.filter(version="theirs", state="running").update(
        caused_by=mine.event_id
    )


@pytest.fixture
def tenant(client):
    """May do everything, to rows of one tenant."""
    user = get_user_model().objects.create_user("tenant", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="general_manager"))
    client.force_login(user)
    with override_settings(ROOT_URLCONF="tests.integration.admin.urls_scoped"):
        yield client


SITES = [(urls_scoped.narrowed, "/narrowed/"), (urls_scoped.row_by_row, "/row_by_row/")]


@pytest.mark.parametrize(("site", "prefix"), SITES)
def test_i3_a_page_that_is_narrowed_is_narrowed_at_every_door(tenant, tenants, site, prefix):
    event_id = WorkflowEventRecord.objects.get(source="theirs").event_id
    walked = 0
    for url in [*urls_of(site, prefix), *(f"{one}?q=shared" for one in lists(prefix))]:
        response = tenant.get(url)
        assert response.status_code in (200, 302, 403, 404), url
        text = read(response)
        # That an execution of one's own was caused by it is in its own row.
        text = text.replace(event_id, "").replace("theirs..1", "")
        assert "theirs" not in text.lower(), url
        walked += response.status_code == 200
    assert walked > 20


@pytest.mark.parametrize(("site", "prefix"), SITES)
def test_i3_an_id_that_is_out_of_scope_has_the_answer_of_an_unknown_one(
    tenant, tenants, site, prefix
):
    unknown = 10**9
    for model, page in site._registry.items():
        start = f"{prefix}general_manager/{model._meta.model_name}/"
        for key in their_keys(model) if model._meta.model_name != "overview" else ():
            for pattern in page.get_urls():
                route = str(pattern.pattern)
                if "<int:key>" not in route and "<path:object_id>" not in route:
                    continue
                for name in act_names(page):

                    def answer(one):
                        url = re.sub(r"<(int|path):\w+>", str(one), route)  # noqa: B023
                        url = start + re.sub(r"<slug:\w+>", name, url)  # noqa: B023
                        found = tenant.get(url, follow=True)
                        text = re.sub(r"“\d+”|&quot;\d+&quot;|\d{3,}", "#", read(found))
                        chain = [re.sub(r"\d+", "#", to) for to, _ in found.redirect_chain]
                        return found.status_code, chain, text.replace(f"/{one}/", "/#/")

                    assert answer(key)[:2] == answer(unknown)[:2], (route, name)
    theirs = WorkflowEventRecord.objects.get(source="theirs")
    for kind, known_id in (
        ("workfloweventrecord", theirs.event_id),
        ("workflowexecutionrecord",
         WorkflowExecutionRecord.objects.filter(version="theirs").earliest("pk").execution_id),
    ):  # fmt: skip
        for url in (f"by-id/{known_id}/", f"by-id/?id={known_id}"):
            assert tenant.get(f"{prefix}general_manager/{kind}/{url}").status_code == 404


@pytest.mark.parametrize(("site", "prefix"), SITES)
def test_i3_no_act_reaches_rows_out_of_scope(tenant, tenants, site, prefix, celery_engine):
    def of_others():
        return {
            model: list(model._default_manager.filter(pk__in=keys).order_by("pk").values())
            for model in (WorkflowEventRecord, WorkflowOutbox, WorkflowDeliveryAttempt,
                          WorkflowExecutionRecord, WorkflowLane)
            for keys in (their_keys(model),)
        }  # fmt: skip

    WorkflowOutbox.objects.filter(event__source="theirs").update(
        available_at=timezone.now() - timedelta(hours=1)
    )
    before = of_others()
    for model, page in site._registry.items():
        start = f"{prefix}general_manager/{model._meta.model_name}/"
        keys = their_keys(model) if model._meta.model_name != "overview" else set()
        urls = [one for one in urls_of(site, prefix) if one.startswith(start)]
        urls = [one for one in urls if keys & set(map(int, re.findall(r"\d+", one)))]
        for url in [start, f"{start}drain/", *urls]:
            for data in posts(page) if url == start else list(posts(page))[1:4]:
                text = read(tenant.post(url, data))
                event_id = WorkflowEventRecord.objects.get(source="theirs").event_id
                assert "theirs" not in text.replace(event_id, "").replace("theirs..1", ""), url
    assert of_others() == before
    # What is selected across everything, and confirmed, is one's own.
    start = f"{prefix}general_manager/workflowexecutionrecord/"
    keys = list(WorkflowExecutionRecord.objects.values_list("pk", flat=True))
    sent = {"action": "cancel_selected", "_selected_action": keys, "select_across": "1"}
    tenant.post(start, {**hidden_fields(tenant.post(start, sent)), "reason": "r"})
    assert of_others() == before
    states = WorkflowExecutionRecord.objects.filter(version=MINE).values_list("state", flat=True)
    assert set(states) == {"failed", "completed", "cancelled"}


@pytest.mark.parametrize(("site", "prefix"), SITES)
def test_i3_an_export_holds_no_row_of_others(tenant, tenants, site, prefix):
    pages = {model._meta.model_name for model in site._registry}
    walked = [url for url in lists(prefix)[1:] if url.split("/")[-2] in pages]
    assert len(walked) == 5
    for url in walked:
        keys = list(WorkflowDeliveryAttempt.objects.values_list("pk", flat=True))
        keys += list(WorkflowExecutionRecord.objects.values_list("pk", flat=True))
        sent = {"action": "export_as_csv", "select_across": "1", "_selected_action": keys}
        text = read(tenant.post(url, sent))
        event_id = WorkflowEventRecord.objects.get(source="theirs").event_id
        assert "ours" in text, url
        assert "theirs" not in text.replace(event_id, ""), url


def test_i3_the_overview_counts_what_a_person_may_see(tenant, tenants):
    for state in ("failed", "waiting"):
        WorkflowExecutionRecord.objects.filter(version=MINE, state=state).delete()
    text = read(tenant.get("/narrowed/general_manager/overview/"))
    cards = dict(re.findall(r'gm-card gm-(\w+)"[^>]*><b>(\d+)</b>', text))
    assert (cards["failed"], cards["waiting"], cards["running"]) == ("0", "0", "1")
    assert "theirs" not in text
    assert "1 dead letter." in text


@pytest.mark.parametrize(("site", "prefix"), SITES)
def test_i3_the_overview_names_no_limit_and_no_pause_out_of_scope(tenant, tenants, site, prefix):
    long_ago = timezone.now() - timedelta(days=2)
    WorkflowLimitKey.objects.create(
        key="theirs", scope="workflow", label="per customer: theirs", most=1, moved_at=long_ago
    )
    WorkflowPause.objects.update(lifted_at=None, paused_at=long_ago)
    troubles = {one.code for one in check_health().troubles}
    assert {"standing-lines", "unknown-pauses", "blocked-lane"} <= troubles
    event_id = WorkflowEventRecord.objects.get(source="theirs").event_id
    text = read(tenant.get(f"{prefix}general_manager/overview/")).replace(event_id, "")
    assert "urs1mine" in text
    assert "theirs" not in text
