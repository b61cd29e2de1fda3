"""Every Python block of README.md and docs/ runs, in a project of its own."""

import json
import os
import subprocess
import sys

import pytest

from general_manager.workflow.core.encoding import MAX_DEPTH
from tests.docs_code import BILLING, CHECKOUT, FILE, OF_FILES, blocks, pages

SETTINGS = """
import os
SECRET_KEY = "docs"
USE_TZ = True
ROOT_URLCONF = "project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "docs.sqlite3"}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
INSTALLED_APPS += ["django.contrib.admin", "django.contrib.messages", "django.contrib.sessions"]
INSTALLED_APPS += ["general_manager", "shop", "billing"]
MODES = {
    "local": {"WORKFLOW_MODE": "local"},
    "in process": {"WORKFLOW_MODE": "production", "WORKFLOW_ASYNC": False},
    "workers": {"WORKFLOW_MODE": "production"},
}
GENERAL_MANAGER = {"WORKFLOW_SIGNAL_BRIDGE": True, **MODES[os.environ["MODE_OF_DOCS"]]}
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
CELERY_BROKER_URL = "memory://"
"""
URLS = """
from django.urls import include, path
urlpatterns = [path("workflows/", include("general_manager.urls"))]
"""
RUN = """
import json, sys, warnings
import django
warnings.simplefilter("error")
django.setup()
from django.apps import apps
from django.core.management import call_command
module = type(sys)("shop.page")
sys.modules["shop.page"] = module
call_command("migrate", verbosity=0, run_syncdb=True)
with open("blocks.json") as file:
    found = json.load(file)
for page, line, code in found:
    before, models = set(vars(module)), len(apps.get_models())
    exec(compile("\\n" * (line - 1) + code, page, "exec"), vars(module))
    if len(apps.get_models()) > models:  # a page that declares some needs their tables
        call_command("migrate", verbosity=0, run_syncdb=True)
    for name in sorted(set(vars(module)) - before):
        if name.startswith("test_"):
            vars(module)[name]()
            print("tested", name)
print("done")
"""


IN_EVERY_MODE = ("children", "durable", "from_celery", "schedules", "lookups", "async")
"""Pages whose claims are for both engines."""


def cases():
    for page in pages():
        if page not in OF_FILES:
            yield page, "local"
        if page in IN_EVERY_MODE:
            yield from ((page, "in process"), (page, "workers"))


@pytest.mark.parametrize(("page", "mode"), list(cases()))
def test_every_block_of_a_page_runs(page, mode, tmp_path):
    found = blocks(pages()[page])
    files = {"project/settings.py": SETTINGS, "project/urls.py": URLS}
    files |= {"project/__init__.py": "", "shop/__init__.py": "", "shop/models.py": ""}
    files |= {"billing/__init__.py": "", "billing/models.py": BILLING}
    # A page's own settings are for its reader's project; what is run has those above.
    files |= {match[1]: code for _, code in found if (match := FILE.match(code))
              and match[1] not in files and code.count("\n# ") == 0}  # fmt: skip
    files |= {"run.py": RUN, "blocks.json": json.dumps([(page, *one) for one in found])}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(CHECKOUT)])
    result = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "MODE_OF_DOCS": mode,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "PYTHONPATH": path,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("done\n")


@pytest.mark.parametrize("page", list(pages()))
def test_no_block_is_skipped(page):
    """One that is indented, say, or whose fence is written in another way."""
    text = pages()[page]
    assert len(blocks(text)) == text.count("```python") + text.count("<!-- python")


def test_the_docs_say_how_deep_a_payload_may_be():
    events = (CHECKOUT / "docs" / "events.md").read_text()
    assert f"nesting beyond {MAX_DEPTH}" in events
