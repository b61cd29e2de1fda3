"""The Python of README.md and docs/: what the tests run, and what mypy reads.

A page is one program: its ``python`` blocks in order, in one namespace, in a project with an app
named ``shop``. What a reader's project has, and what is claimed besides, stands between them in
comments that no reader sees: ``<!-- python`` ... ``-->``. A block that begins with ``# path/of.py``
is that file too.

    python -m tests.docs_code FOLDER     # writes each page as a module there, for mypy to read
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]
BLOCK: Final = re.compile(
    r"^```python\n(?P<shown>.*?)^```$|^<!-- python\n(?P<hidden>.*?)^-->$", re.DOTALL | re.MULTILINE
)
FILE: Final = re.compile(r"# ([\w/]+\.py)\b")
BILLING: Final = """\
from django.db import models


class Invoice(models.Model):
    status = models.CharField(max_length=20, default="open")
    total = models.IntegerField(default=0)
    execution_id = models.CharField(max_length=36, default="")
"""
"""The models of an app that is there before the pages begin."""
CONFIG: Final = """\
[tool.mypy]
strict = true
python_version = "3.11"
plugins = ["mypy_django_plugin.main"]
explicit_package_bases = true
# Pages show functions as people write them first.
disallow_untyped_defs = false
disallow_incomplete_defs = false
disallow_untyped_calls = false
disallow_untyped_decorators = false
# A page has several takes of one thing; its reader's modules are made when the page is run.
disable_error_code = ["no-redef", "import-not-found"]
warn_unused_ignores = false

[[tool.mypy.overrides]]
module = "health_check.*"
ignore_missing_imports = true

[tool.django-stubs]
django_settings_module = "docs_settings"
strict_settings = false
"""
SETTINGS: Final = """\
from tests.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "billing", "expenses"]  # the latter is of the real app
"""
OF_FILES: Final = ("real_app", "tutorial")
"""Pages that are a project of several files, and have a test of their own."""


def pages() -> dict[str, str]:
    """The text of each page that has Python in it, by its name."""
    paths = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    return {name: text for name, text in texts.items() if "```python\n" in text}


def blocks(text: str) -> list[tuple[int, str]]:
    """The number of its first line, and the code of each block, in order."""
    return [
        (text.count("\n", 0, found.start()) + 2, found["shown"] or found["hidden"] or "")
        for found in BLOCK.finditer(text)
    ]


def write_modules(folder: Path) -> None:
    """Each page as a module; a page of several files as those."""
    (folder / "billing").mkdir(parents=True, exist_ok=True)
    (folder / "billing" / "__init__.py").touch()
    (folder / "billing" / "models.py").write_text(BILLING, encoding="utf-8")
    (folder / "docs_settings.py").write_text(SETTINGS, encoding="utf-8")
    (folder / "pyproject.toml").write_text(CONFIG, encoding="utf-8")
    for name, text in pages().items():
        target = folder / f"{name.lower()}_page"
        if name in OF_FILES:
            for _, code in blocks(text):
                found = FILE.match(code)
                if found is not None:
                    path = target / found[1]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    (path.parent / "__init__.py").touch()
                    path.write_text(code, encoding="utf-8")
            continue
        lines = [""] * (text.count("\n") + 1)
        for first, code in blocks(text):
            for at, line in enumerate(code.splitlines(), start=first - 1):
                # In its line, so that an error has the page's. celery-types lacks that method.
                lines[at] = line.replace(".delay_on_commit(", ".delay(")
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{name.lower()}.py").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_types(folder: Path) -> int:
    """mypy's exit status; what it complains of has the page's line."""
    write_modules(folder)
    files = [str(path) for path in folder.glob("*_page/**/*.py") if path.name != "__init__.py"]
    roots = [str(folder), *(str(folder / f"{name}_page") for name in OF_FILES)]
    environment = {
        **os.environ,
        "MYPYPATH": os.pathsep.join(roots),
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "real_app_page"), str(CHECKOUT)]),
    }
    command = [sys.executable, "-m", "mypy", "--config-file", str(folder / "pyproject.toml")]
    return subprocess.run([*command, *files], env=environment, cwd=CHECKOUT, check=False).returncode


if __name__ == "__main__":
    sys.exit(check_types(Path(sys.argv[1])))
