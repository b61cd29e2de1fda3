"""Taking the app off again: what is said before, and that nothing of ours stays behind."""

import importlib.util
import sqlite3
import subprocess
import sys
from contextlib import closing
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from tests.bare import PACKAGE
from tests.testapp import flows

HAS_BEAT = importlib.util.find_spec("django_celery_beat") is not None
SETTINGS = f"""
SECRET_KEY = "x"
USE_TZ = True
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}}
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "general_manager", "billing",
    *{["django_celery_beat"] if HAS_BEAT else []},
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
GENERAL_MANAGER = {{"WORKFLOW_MODE": "production"}}
"""
TABLE = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [%s]
    operations = [
        migrations.CreateModel("Bill", [
            ("id", models.BigAutoField(primary_key=True, serialize=False, auto_created=True)),
        ]),
    ]
"""
DEPENDENCY = '("general_manager", "0001_workflow_tables")'
FILL = """
import django; django.setup()
from django.apps import apps
from django.contrib.auth.models import Group, Permission
group = Group.objects.create(name="operators")
group.permissions.set(Permission.objects.filter(content_type__app_label="general_manager"))
assert group.permissions.exists()
if apps.is_installed("django_celery_beat"):
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    PeriodicTask.objects.create(
        name="ours", task="general_manager.workflow.tasks.beat_tick",
        interval=IntervalSchedule.objects.create(every=5, period="seconds"),
    )
"""


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_it_says_what_would_be_lost_and_refuses_to_begin(outbox, celery_engine, workers):
    outbox.register("x", handler=lambda event: 1 / 0, retry_on=lambda error: False)
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    workers.deliver()
    outbox.publish(WorkflowEvent("2", "a.b", {}, event_name="x"))
    celery_engine.start(WorkflowDefinition("w", handler=flows.ask))
    workers.run()
    celery_engine.start(WorkflowDefinition("w", handler=flows.echo))
    said = StringIO()
    call_command("workflow_uninstall", stdout=said)
    text = said.getvalue()
    assert "Database 'default' would lose:" in text
    assert "undelivered events  1\n" in text
    assert "dead letters        1\n" in text
    assert "active executions   1 pending, 0 running, 1 waiting\n" in text
    assert "content types" in text
    with pytest.raises(CommandError, match="undelivered events or active executions"):
        call_command("workflow_uninstall", "--forget", stdout=said)


@pytest.fixture
def project(tmp_path):
    package = tmp_path / "billing"
    (package / "migrations").mkdir(parents=True)
    (tmp_path / "settings.py").write_text(SETTINGS)
    (package / "__init__.py").touch()
    (package / "migrations" / "__init__.py").touch()
    (package / "migrations" / "0001_initial.py").write_text(TABLE % DEPENDENCY)
    return tmp_path


def run(project, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={"PYTHONPATH": f"{project}:{PACKAGE.parent}", "DJANGO_SETTINGS_MODULE": "settings"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_after_the_steps_of_the_docs_nothing_of_ours_is_left(project):
    run(project, "-m", "django", "migrate", "--verbosity=0")
    run(project, "-c", FILL)
    said = run(project, "-m", "django", "workflow_uninstall")
    assert "billing.0001_initial" in said
    (project / "billing" / "migrations" / "0001_initial.py").write_text(TABLE % "")
    assert "billing" not in run(project, "-m", "django", "workflow_uninstall")
    said = run(project, "-m", "django", "workflow_uninstall", "--forget")
    assert "content types" in said
    assert ("entries in Beat's schedule (1)" in said) == HAS_BEAT
    run(project, "-m", "django", "migrate", "general_manager", "zero", "--verbosity=0")
    settings = project / "settings.py"
    settings.write_text(SETTINGS.replace('"general_manager", ', ""))
    run(project, "-m", "django", "migrate", "--verbosity=0")
    with closing(sqlite3.connect(project / "db.sqlite3")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
        dump = "\n".join(database.iterdump())
    assert "billing_bill" in tables
    assert "general_manager" not in dump
