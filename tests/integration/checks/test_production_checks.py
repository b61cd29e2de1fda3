"""What manage.py check says of a project that stores its events."""

import pytest
from celery import Celery, current_app
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.template import engines
from django.test import override_settings
from kombu import Queue

from general_manager.checks import check_admin, check_backends, check_tables, check_workers
from general_manager.checks.database import check_timeouts
from general_manager.conf import get_workflow_settings
from general_manager.workflow.transport import broker
from general_manager.workflow.transport.base import TICK, WORK
from general_manager.workflow.workers import beat
from tests.testapp import flows


@pytest.fixture
def app(monkeypatch):
    # Apps that other tests made live on until somebody collects them.
    known, active = set(broker._apps()), broker._apps
    monkeypatch.setattr(broker, "_apps", lambda: [one for one in active() if one not in known])
    app = Celery("tests", broker="memory://", set_as_current=False)
    app.conf.db_reuse_max = 1000
    before = current_app._get_current_object()  # type: ignore[attr-defined]
    app.set_current()
    yield app
    before.set_current()


def ids(check=check_backends, **arguments):
    messages = check(**arguments)
    assert all(message.hint for message in messages)
    return [(message.id or "").removeprefix("general_manager.") for message in messages]


@pytest.fixture
def production():
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        yield


@pytest.fixture
def is_sqlite():
    return connections["default"].vendor == "sqlite"


def test_a_project_that_has_all_it_needs_hears_nothing(outbox, celery_engine, app):
    outbox.register("x", handler=flows.start_from_event)
    outbox.register("x", handler=lambda event: None, registration_id="named")
    assert ids() == []


def test_a_process_without_a_celery_app_hears_so(outbox, celery_engine):
    assert ids() == ["W005"]


def test_m1_events_that_are_kept_elsewhere_than_executions_are_named(
    celery_engine, event_registry, app
):
    """They cannot answer waits, which a workflow hears when it opens one."""
    [message] = [one for one in check_backends() if one.id == "general_manager.W019"]
    assert "InMemoryEventRegistry" in message.msg
    assert "CeleryWorkflowEngine" in message.msg


class EventsApart:
    def db_for_write(self, model, **_):
        return "archive" if model._meta.model_name == "workfloweventrecord" else None


def test_m1_events_in_another_database_than_executions_are_named(outbox, celery_engine, app):
    with override_settings(DATABASE_ROUTERS=[EventsApart()]):
        found = [one for one in check_backends() if one.id == "general_manager.W019"]
    assert ["'archive'" in one.msg and "'default'" in one.msg for one in found] == [True]


def test_connections_that_are_closed_after_every_task_are_named(outbox, celery_engine, app):
    app.conf.db_reuse_max = None
    assert ids() == ["W006"]


def test_fragile_registrations_are_named(outbox, celery_engine, app):
    outbox.register("x", handler=lambda event: None)
    outbox.register("x", handler=flows.start_from_event, when=lambda event: True)
    messages = check_backends()
    assert ids() == ["W007", "W007"]
    assert "start_from_event for 'x'" in messages[1].msg
    assert "because when cannot be imported" in messages[1].msg


def test_a_database_that_cannot_leave_a_commit_unwaited_is_named(outbox, celery_engine, app):
    off = {"WORKFLOW_MODE": "production", "WORKFLOW_SYNCHRONOUS_COMMIT": False}
    with override_settings(GENERAL_MANAGER=off):
        can = connections["default"].vendor == "postgresql"
        assert ids() == ([] if can else ["W060"] * 2)


def test_sqlite_that_workers_would_lock_is_named(
    outbox, celery_engine, app, monkeypatch, is_sqlite
):
    if is_sqlite:  # another database would miss options of its own
        monkeypatch.setitem(connections["archive"].settings_dict, "OPTIONS", {"timeout": 20})
    assert ids() == (["W004"] if is_sqlite else [])


def test_another_isolation_level_than_read_committed_is_named(
    outbox, celery_engine, app, monkeypatch
):
    options = connections["default"].settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "isolation_level", "read committed")
    assert ids() == []
    monkeypatch.setitem(options, "isolation_level", "repeatable read")
    assert ids() == ["W015"]


def test_a_database_that_never_commits_by_itself_is_named(outbox, celery_engine, app, monkeypatch):
    monkeypatch.setitem(connections["archive"].settings_dict, "AUTOCOMMIT", False)
    assert ids() == ["W029"]


def test_a_database_with_a_zone_of_its_own_is_named_where_times_do_not_carry_theirs(
    outbox, celery_engine, app, monkeypatch
):
    carries = connections["archive"].vendor == "postgresql"
    monkeypatch.setitem(connections["archive"].settings_dict, "TIME_ZONE", "UTC")
    assert ids() == []
    monkeypatch.setitem(connections["archive"].settings_dict, "TIME_ZONE", "Asia/Kathmandu")
    assert ids() == ([] if carries else ["W030"])


def test_production_without_time_zones_is_an_error_that_names_the_setting(production, app):
    with override_settings(
        USE_TZ=False,
        GENERAL_MANAGER={"WORKFLOW_MODE": "production"},
    ):
        messages = check_backends()
    assert [message.id for message in messages] == ["general_manager.E004", "general_manager.E005"]
    assert all("USE_TZ" in message.msg for message in messages)


def test_registrations_that_differ_only_in_what_ids_leave_out_are_named(outbox, celery_engine, app):
    outbox.register("x", handler=flows.start_from_event)
    outbox.register("y", handler=flows.start_from_event, retries=1)
    assert ids() == []
    outbox.register("x", handler=flows.start_from_event, retries=1, registration_id="named")
    assert ids() == []
    outbox.register("x", handler=flows.start_from_event, retries=2)
    assert ids() == ["W010"]
    assert "is registered 2 times" in check_backends()[0].msg


def test_a_schedule_that_lost_beats_entry_is_named(production, app):
    beat.install()
    assert ids(check_workers) == []
    app.conf.beat_schedule = {"another": {"task": "shop.tasks.count", "schedule": 60.0}}
    assert ids(check_workers) == ["W008"]
    app.conf.beat_schedule["ours"] = {"task": "general_manager.workflow.tasks.beat_tick"}
    assert ids(check_workers) == []
    app.conf.beat_schedule = {}
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_BEAT_ENABLED": False}
    with override_settings(GENERAL_MANAGER=settings):
        assert ids(check_workers) == []


@pytest.mark.parametrize("kind", ["task_time_limit", "task_soft_time_limit"])
def test_a_time_limit_that_stops_healthy_batches_is_named(production, app, kind):
    beat.install()
    app.conf[kind] = 60
    assert ids(check_workers) == ["W011"]
    assert "60 s is shorter" in check_workers()[0].msg


def test_a_time_limit_that_spares_our_tasks_is_fine(production, app):
    beat.install()
    app.conf.task_time_limit = 60
    app.conf.task_annotations = {name: {"time_limit": 300} for name in (WORK, TICK)}
    assert ids(check_workers) == []


@pytest.mark.parametrize(
    ("url", "trouble"), [(None, "it is not configured"), ("nosuch://here", "nosuch")]
)
def test_a_broker_that_no_message_can_reach_is_named(production, app, url, trouble):
    beat.install()
    app.conf.broker_url = url
    assert ids(check_workers) == ["W013"]
    assert trouble in check_workers()[0].msg


@pytest.mark.parametrize(
    ("name", "value", "trouble"),
    [
        ("task_soft_time_limit", "abc", "task_soft_time_limit is 'abc', which is no number"),
        ("task_time_limit", [1], "task_time_limit is [1], which is no number"),
        ("beat_schedule", [1], "beat_schedule is [1], which is no mapping"),
        ("task_annotations", ["x"], "task_annotations is ['x'] ("),
        ("task_serializer", "nosuch", "task_serializer is 'nosuch' (SerializerNotInstalled: "),
        ("result_backend", "nosuch://", "result_backend is 'nosuch://' ("),
    ],
)
def test_a_setting_of_celerys_with_which_nothing_is_sent_is_named(
    production, app, name, value, trouble
):
    beat.install()
    app.conf[name] = value
    message = check_workers()[0]
    assert (message.id, trouble in message.msg) == ("general_manager.W013", True), message.msg


def test_queues_without_ours_are_named_if_none_are_added(production, app):
    beat.install()
    app.conf.task_queues = [Queue("mails")]
    assert ids(check_workers) == []
    app.conf.task_create_missing_queues = False
    app.amqp.__dict__.pop("queues", None)
    app.amqp.__dict__.pop("router", None)
    app.amqp._rtable = None
    [message] = check_workers()
    assert "task_queues lacks the queue of general_manager.workflow.tasks.work" in message.msg
    app.conf.task_routes = {"general_manager.*": {"queue": "mails"}}
    app.amqp.flush_routes()
    app.amqp.__dict__.pop("router", None)
    assert ids(check_workers) == []


def test_a_schedule_of_beats_that_is_none_stops_no_start(production, app):
    app.conf.beat_schedule = [1]
    app.finalize(auto=True)
    beat.install()
    assert ids(check_workers) == ["W013"]


def test_tasks_that_run_in_the_request_are_named(production, app):
    beat.install()
    app.conf.task_always_eager = True
    assert ids(check_workers) == ["W014"]


def test_local_mode_asks_nothing_of_celery(app):
    app.conf.task_time_limit = 1
    assert ids(check_workers) == []


def test_a_process_without_an_app_is_reported_elsewhere_and_wrong_settings_come_first(production):
    assert ids(check_workers) == []
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "x"}):
        assert ids(check_workers) == []


@pytest.mark.django_db(databases=["default", "archive"])
def test_a_database_that_was_not_migrated_is_named(monkeypatch):
    databases = ["default", "archive"]
    assert ids(check_tables, databases=databases) == []
    recorder = MigrationRecorder(connections["archive"])
    recorder.record_unapplied("general_manager", "0001_workflow_tables")
    try:
        assert ids(check_tables, databases=databases) == ["W009"]
        (message,) = check_tables(databases=databases)
        assert "0001_workflow_tables" in message.msg
        assert "--database=archive" in (message.hint or "")
        assert ids(check_tables, databases=["default"]) == []
        assert ids(check_tables, databases=None) == []
        monkeypatch.setattr("sys.argv", ["manage.py", "migrate"])
        assert ids(check_tables, databases=databases) == []
    finally:
        recorder.record_applied("general_manager", "0001_workflow_tables")


OUTBOX = "general_manager_workflowoutbox"


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_a12_tables_of_the_same_names_that_are_not_ours_are_named():
    with connections["archive"].schema_editor() as editor:
        editor.execute(f"ALTER TABLE {OUTBOX} RENAME COLUMN expected_registrations TO other")
    try:
        (message,) = check_tables(databases=["default", "archive"])
        assert message.id == "general_manager.E007"
        assert "'general_manager_workflowoutbox' of database 'archive'" in message.msg
        assert "it lacks expected_registrations." in message.msg
    finally:
        with connections["archive"].schema_editor() as editor:
            editor.execute(f"ALTER TABLE {OUTBOX} RENAME COLUMN other TO expected_registrations")


@pytest.mark.django_db(databases=["default", "archive"])
def test_a1_that_no_process_has_ever_done_what_is_due_is_named():
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        assert ids(check_tables, databases=["default"]) == ["W018"]
        call_command("workflow_drain_outbox", verbosity=0)
        assert ids(check_tables, databases=["default"]) == []


@pytest.mark.django_db(databases=["default", "archive"])
def test_a1_a_project_without_workers_hears_nothing_of_them():
    settings = {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False}
    with override_settings(GENERAL_MANAGER=settings):
        assert not get_workflow_settings().beat_enabled
        assert ids(check_backends) == []
        assert ids(check_workers) == []


@pytest.mark.django_db(databases=["default", "archive"])
def test_tables_are_looked_at_only_if_a_database_is_named(capsys, monkeypatch):
    monkeypatch.setattr("general_manager.checks.database.aliases", lambda: 1 / 0)
    call_command("check")
    with pytest.raises(ZeroDivisionError):
        call_command("check", databases=["default"])


def test_an_admin_that_does_not_know_the_request_is_named(monkeypatch):
    assert ids(check_admin) == []
    (engine,) = engines.all()
    monkeypatch.setattr(engine.engine, "context_processors", [])  # type: ignore[attr-defined]
    assert ids(check_admin) == ["W012"]


@pytest.mark.parametrize(
    ("vendor", "host", "options", "missing"),
    [
        ("postgresql", "db.internal", {}, "no connect_timeout and no keepalives_idle"),
        ("postgresql", "/run/postgresql", {}, None),
        ("postgresql", "", {}, None),
        ("postgresql", "db", {"connect_timeout": 1, "keepalives_idle": 1, "options": ""},
         "no tcp_user_timeout"),
        ("mysql", "db", {"connect_timeout": 1}, "no read_timeout and no write_timeout"),
        ("mysql", "db", dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), 1),
         None),
        ("sqlite", "db", {}, None),
    ],
)  # fmt: skip
def test_i14_a_connection_that_could_wait_for_good_is_named(
    monkeypatch, vendor, host, options, missing
):
    connection = connections["default"]
    monkeypatch.setattr(connection, "vendor", vendor)
    monkeypatch.setitem(connection.settings_dict, "HOST", host)
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    monkeypatch.setattr("general_manager.checks.database.aliases", lambda: ["default"])
    messages = check_timeouts()
    assert [message.id for message in messages] == ["general_manager.W017"] * bool(missing)
    assert missing is None or missing in messages[0].msg


def test_without_the_admin_nobody_asks_for_the_request():
    with override_settings(INSTALLED_APPS=["general_manager"], TEMPLATES=[]):
        assert ids(check_admin) == []
