"""docs/architecture.md names files and functions that are there."""

import re

import pytest

from tests.bare import PACKAGE
from tests.docs_code import CHECKOUT

TEXT = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOTS = (PACKAGE, PACKAGE / "workflow", CHECKOUT)
NAMED = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", TEXT)


def found(path):
    return [root / path for root in ROOTS if (root / path).is_file()]


def test_every_file_that_the_page_names_is_there():
    paths = set(re.findall(r"(?<![\w/])([\w/]+\.py)\b", TEXT))
    assert len(paths) > 30
    assert sorted(path for path in paths if not found(path)) == ["manage.py"]


@pytest.mark.parametrize(("path", "names"), NAMED)
def test_every_function_that_the_page_looks_for_is_in_its_file(path, names):
    source = "\n".join(one.read_text(encoding="utf-8") for one in found(path))
    for name in re.findall(r"\w+", names):
        assert re.search(rf"^ *(?:def|class) {name}\b", source, re.MULTILINE), name


def test_every_verb_of_the_transition_tables_is_in_the_models():
    table = TEXT.partition("## Who may change which state")[2].partition("## Where is")[0]
    rows = re.findall(r"^\| (?!transition|---)[^|]+\| ([^|]+) \|", table, re.MULTILINE)
    verbs = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in (PACKAGE / "workflow" / "models").rglob("*.py")
    )
    assert len(verbs) > 25
    assert [name for name in sorted(verbs - {"publish_sync"}) if f"def {name}(" not in source] == []
