"""A project's migrations that save what is tracked, before and after our tables are there."""

import subprocess
import sys

import pytest
from django.db import connection, transaction
from django.db.utils import DatabaseError

from general_manager.workflow import WorkflowDefinition, WorkflowEvent
from general_manager.workflow.models import (
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowOutbox,
)
from tests.bare import PACKAGE
from tests.testapp import flows

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
INSTALLED_APPS = ["general_manager", "billing"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
GENERAL_MANAGER = {"WORKFLOW_MODE": "production", "WORKFLOW_SIGNAL_BRIDGE": True}
"""
MODELS = """
from django.db import models
from general_manager import track_changes

class Bill(models.Model):
    total = models.IntegerField()

track_changes(Bill)
"""
TABLE = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = []
    operations = [
        migrations.CreateModel("Bill", [
            ("id", models.BigAutoField(primary_key=True, serialize=False, auto_created=True)),
            ("total", models.IntegerField()),
        ]),
    ]
"""
DATA = """
from django.db import migrations

def save(apps, schema_editor):
    from billing.models import Bill
    Bill.objects.create(total=1)

class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), %s]
    operations = [migrations.RunPython(save)]
"""


@pytest.fixture
def project(tmp_path):
    package = tmp_path / "billing"
    (package / "migrations").mkdir(parents=True)
    (tmp_path / "settings.py").write_text(SETTINGS)
    (package / "__init__.py").touch()
    (package / "models.py").write_text(MODELS)
    (package / "migrations" / "__init__.py").touch()
    (package / "migrations" / "0001_initial.py").write_text(TABLE)
    return tmp_path


def migrate(project, dependency=""):
    (project / "billing" / "migrations" / "0002_data.py").write_text(DATA % dependency)
    return subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity=0"],
        cwd=project,
        env={"PYTHONPATH": f"{project}:{PACKAGE.parent}", "DJANGO_SETTINGS_MODULE": "settings"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_migration_that_saves_too_early_learns_what_it_must_depend_on(project):
    done = migrate(project)
    assert done.returncode == 1
    # Not the last one: what Django's SQLite then says of the broken transaction names it as cause.
    said = "django.db.utils.OperationalError: Table general_manager_"
    (line,) = [one for one in done.stderr.splitlines() if one.startswith(said)]
    assert "('general_manager', '0001_workflow_tables') among its dependencies" in line


def test_with_that_dependency_it_saves_and_its_event_is_stored(project):
    done = migrate(project, '("general_manager", "0001_workflow_tables")')
    assert done.returncode == 0, done.stderr


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
@pytest.mark.parametrize("is_inside", [True, False])
def test_every_database_says_so_of_events_and_executions(outbox, celery_engine, is_inside):
    tables = (WorkflowEventRecord, WorkflowExecutionRecord)
    names = [table._meta.db_table for table in tables]

    def rename(old, new):
        with connection.schema_editor() as editor:
            for table, name in zip(tables, names, strict=True):
                editor.alter_db_table(table, old.format(name), new.format(name))

    rename("{}", "{}_away")
    try:
        for what, act in (
            ("event", lambda: outbox.publish(WorkflowEvent("1", "a.b", {}))),
            ("execution", lambda: celery_engine.start(WorkflowDefinition("w", handler=flows.echo))),
        ):
            with pytest.raises(DatabaseError, match=f"Table .*{what}record is missing"):
                if is_inside:
                    with transaction.atomic():
                        act()
                else:
                    act()
    finally:
        rename("{}_away", "{}")
    assert not WorkflowOutbox.objects.exists()
