"""docs/real_app.md does what it says: its files are written and migrated, and its tests run."""

import os
import subprocess
import sys

import pytest

from tests.docs_code import CHECKOUT, FILE, blocks, pages

MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "office.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
BROKERS = {"in one process": "", "with workers": "memory://"}


@pytest.fixture
def project(tmp_path):
    """Nothing but the page's files, and Django's own manage.py."""
    files = {"manage.py": MANAGE, "expenses/__init__.py": ""}
    for _, code in blocks(pages()["real_app"]):
        named = FILE.match(code)
        assert named is not None, code
        files[named[1]] = code
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def manage(folder, broker, *arguments):
    settings = {
        "CELERY_BROKER_URL": broker,
        "PYTHONPATH": os.pathsep.join([str(folder), str(CHECKOUT)]),
    }
    result = subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=folder,
        env={**os.environ, **settings, "DJANGO_SETTINGS_MODULE": "office.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("broker", BROKERS.values(), ids=BROKERS)
def test_the_real_app_works_from_its_models_to_its_tests(project, broker):
    assert "no issues" in manage(project, broker, "check")
    assert "Create model Claim" in manage(project, broker, "makemigrations", "expenses")
    manage(project, broker, "migrate", "-v0")
    output = manage(project, broker, "test")
    assert "Ran 5 tests" in output
    assert "OK" in output
