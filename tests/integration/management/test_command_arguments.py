"""Every option of every command by `call_command`: it works, or a `CommandError` says why not."""

# ruff: noqa: DTZ001, DTZ005, DTZ011, DTZ901 - naive times are among what is given

from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from io import StringIO
from pkgutil import iter_modules
from uuid import uuid4

import pytest
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError, CommandParser
from django.test import override_settings
from django.utils import timezone

from general_manager.management import base, commands
from general_manager.workflow.models import WorkflowDeliveryAttempt
from tests.integration.management.test_commands import bury

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

NAMES = sorted(module.name for module in iter_modules(commands.__path__))
VALUES = [
    None, True, False, 0, 1, 5, -1, 2**40, 1.5, float("nan"), "", "0", "1", "5", " 5 ", "-1", "x",
    "2h", "30d", "99999999999d", "2026-01-31", "2026-01-31T12:00", "2026-13-45", "json", "text",
    b"5", [], [5], {}, object(), uuid4(), timedelta(days=1), timedelta(0), timedelta(days=-1),
    timedelta.max, date(2026, 1, 31), date.min, datetime(2026, 1, 31, 12), datetime.max,
    datetime(2026, 1, 31, tzinfo=UTC), datetime.min.replace(tzinfo=UTC),
]  # fmt: skip


def options():
    for name in NAMES:
        parser = CommandParser()
        load_command_class("general_manager", name).add_arguments(parser)
        for action in parser._actions:
            if action.dest != "help":
                yield name, action.dest


def run(name, *arguments, **given):
    out = StringIO()
    call_command(name, *arguments, stdout=out, stderr=out, no_color=True, **given)
    return out.getvalue()


@pytest.fixture(autouse=True)
def _production():
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_RETENTION_DAYS": 30}
    ):
        yield


@pytest.mark.parametrize(("name", "option"), list(options()))
def test_whatever_an_option_is_given_it_works_or_says_in_words_what_is_wrong(name, option):
    refused = 0
    for value in VALUES:
        try:
            run(name, **{option: value})
        except CommandError as error:
            refused += 1
            assert len(str(error)) > 10  # noqa: PT017 - it may be refused, or not
            assert "Traceback" not in str(error)  # noqa: PT017
        except SystemExit as stop:  # workflow_status says so that something is wrong
            assert stop.code == 1  # noqa: PT017
    assert refused > 0


def test_the_commands_are_those_of_the_docs():
    assert "workflow_requeue_dead_letters" in NAMES
    for name in NAMES:
        assert issubclass(
            import_module(f"{commands.__name__}.{name}").Command, base.WorkflowCommand
        )


@pytest.mark.parametrize("limit", ["2", 2, " 2 "])
def test_a_limit_is_a_text_or_a_number(outbox, limit):
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        bury(outbox, "1", "2", "3")
        run("workflow_requeue_dead_letters", limit=limit)
        dead = WorkflowDeliveryAttempt.objects.filter(status="dead_letter")
        assert dead.count() == 1


@pytest.mark.parametrize(
    ("since", "left"),
    [
        (None, 0),
        ("1h", 0),
        (timedelta(hours=1), 0),
        (datetime.now() - timedelta(hours=1), 0),
        (timezone.now() - timedelta(hours=1), 0),
        (date.today() - timedelta(days=1), 0),
        (str(date.today() + timedelta(days=2)), 1),
        (date.today() + timedelta(days=2), 1),
        (timezone.now() + timedelta(days=1), 1),
    ],
)
def test_a_time_is_a_text_a_date_a_datetime_or_a_timedelta(outbox, since, left):
    with override_settings(
        GENERAL_MANAGER={"WORKFLOW_MODE": "production", "WORKFLOW_MAX_RETRIES": 1}
    ):
        bury(outbox, "1")
        run("workflow_requeue_dead_letters", since=since)
        dead = WorkflowDeliveryAttempt.objects.filter(status="dead_letter")
        assert dead.count() == left


def test_none_is_the_default():
    said = run("workflow_prune", older_than=None, batch_size=None, dry_run=None)
    assert "0 events and 0 executions" in said


@pytest.mark.parametrize("older_than", ["30d", timedelta(days=30)])
def test_an_age_is_a_text_or_a_timedelta(older_than):
    with override_settings(GENERAL_MANAGER={"WORKFLOW_MODE": "production"}):
        assert "deleted" in run("workflow_prune", older_than=older_than)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": "many"}, "--limit: 'many' is not a whole number"),
        ({"limit": True}, "--limit: True is not a whole number"),
        ({"since": "soon"}, "--since: 'soon' is neither a date"),
        ({"dry_run": "no"}, "--dry-run: 'no' is neither True nor False"),
        ({"handler": 5}, "--handler: 5 is not text"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option_s_name(given, said):
    with pytest.raises(CommandError) as caught:
        run("workflow_requeue_dead_letters", **given)
    assert said in str(caught.value)


def test_a_trace_is_asked_for_by_position_or_by_name():
    for arguments, given in ((["gone"], {}), ([], {"id": "gone"})):
        with pytest.raises(CommandError, match="No event and no execution matches 'gone'"):
            run("workflow_trace", *arguments, **given)
    with pytest.raises(CommandError, match="No id is given"):
        run("workflow_trace")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "workflow_pauses",
            {"pause": "a", "unpause_registration": "b"},
            "--pause and --unpause-registration exclude each other",
        ),
        (
            "workflow_schedules",
            {"run": "a", "unpause": "a"},
            "--run and --unpause exclude each other",
        ),
        ("workflow_schedules", {"pause": ""}, "No schedule '' is registered"),
        ("workflow_schedules", {"run": ""}, "No schedule '' is registered"),
        ("workflow_requeue_dead_letters", {"handler": "\udcff"}, "no database stores"),
        ("workflow_pauses", {"pause": "\udcff"}, "no database stores"),
    ],
)
def test_what_cannot_be_meant_is_refused(celery_engine, name, given, said):
    with pytest.raises(CommandError) as caught:
        run(name, **given)
    assert said in str(caught.value)


@pytest.mark.parametrize("since", ["2h", "2026-01-31", "2026-01-31T12:00+02:00", date(2026, 1, 31)])
def test_a_time_has_no_zone_in_a_project_without_zones(settings, since):
    settings.USE_TZ = False
    assert "0 dead letters requeued." in run("workflow_requeue_dead_letters", since=since)
