"""docs/tutorial.md does what it says: its files are written, its sessions typed, its test run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "tutorial.md").read_text()
FILES = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL)
SESSIONS = re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL)

SETTINGS = """
SECRET_KEY = "tutorial"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "tutorial.sqlite3"}}
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
TYPE_THE_SESSIONS = """
import doctest, django
django.setup()
text = open("sessions.txt").read()
test = doctest.DocTestParser().get_doctest(text, {}, "tutorial", "docs/tutorial.md", 0)
result = doctest.DocTestRunner().run(test)
print(f"{result.attempted} typed, {result.failed} failed")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project made of nothing but the page's files."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, text in [("project/__init__.py", ""), ("shop/__init__.py", ""), *FILES]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + (SETTINGS if name == "project/settings.py" else ""))
    (folder / "manage.py").write_text(MANAGE)
    (folder / "sessions.txt").write_text("\n".join(SESSIONS))
    return folder


def python(folder, *arguments):
    path = os.pathsep.join([str(folder), str(CHECKOUT)])
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_page_works_from_its_first_line_to_its_last(project):
    assert len(FILES) == 6
    assert len(SESSIONS) == 4
    assert "no issues" in python(project, "manage.py", "check")
    assert "Create model Project" in python(project, "manage.py", "makemigrations", "shop")
    python(project, "manage.py", "migrate", "-v0")
    assert "22 typed, 0 failed" in python(project, "-c", TYPE_THE_SESSIONS)
    assert "OK" in python(project, "manage.py", "test")
