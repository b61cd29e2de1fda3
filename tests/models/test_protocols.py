"""Every model's right ways hold in all states, and each of its wrong ones is caught."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet

from tests.models.explore import explore
from tests.models.model import Case
from tests.models.protocols import PROTOCOLS

CASES = [(name, case) for name, module in PROTOCOLS.items() for case in module.CASES]


def named(cases: Iterable[tuple[str, Case]]) -> list[ParameterSet]:
    return [pytest.param(case, id=f"{name}: {case.sentence}") for name, case in cases]


@pytest.mark.parametrize("case", named(one for one in CASES if not one[1].problem))
def test_a_right_way_holds_in_every_state(case: Case) -> None:
    verdict = explore(case.model)
    assert verdict.problem == "", verdict
    assert verdict.states > 5


@pytest.mark.parametrize("case", named(one for one in CASES if one[1].problem))
def test_a_wrong_way_is_caught(case: Case) -> None:
    verdict = explore(case.model)
    assert verdict.problem.startswith(case.problem), verdict
    assert verdict.trace


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_shown_right_and_wrong(name: str) -> None:
    problems = {bool(case.problem) for each, case in CASES if each == name}
    assert problems == {True, False}


def test_every_sentence_stands_once() -> None:
    sentences = [case.sentence for _, case in CASES]
    assert len(sentences) == len(set(sentences))
