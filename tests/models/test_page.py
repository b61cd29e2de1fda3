"""docs/protocols.md names every model, and tests that are there."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.models.protocols import PROTOCOLS

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "protocols.md").read_text(encoding="utf-8")
TESTS = defaultdict[str, list[str]](list)
for each in CHECKOUT.glob("tests/**/test_*.py"):
    found = re.findall(r"^ *def (test_\w+)", each.read_text(encoding="utf-8"), re.MULTILINE)
    TESTS[each.name] += found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_page_has_each_model(name: str) -> None:
    assert f"`tests/models/{name}.py`" in PAGE


def test_every_file_that_the_page_names_is_there() -> None:
    paths = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(paths) >= len(PROTOCOLS)
    assert [path for path in paths if not (CHECKOUT / path).is_file()] == []


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+)\*?)?`", PAGE)
    assert named
    missing = [
        (file, name) for file, name in named if not any(one.startswith(name) for one in TESTS[file])
    ]
    assert missing == []
