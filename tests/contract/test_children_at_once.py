"""Gathers that start a few children at once, of which some are there already, or cannot start."""

import pytest

from tests.contract.test_children import calls
from tests.testapp.families import BOOK, PAGE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("mixed", [False, True])
def test_c1_a_correlation_id_that_is_repeated_takes_one_place_of_at_once(
    engine, driver, started, at_once, mixed
):
    given = [
        {"n": n, "waits": True} | ({} if mixed and n == 2 else {"id": f"p{n}"})
        for n in (1, 2, 3)
        for _ in range(2)
    ]
    execution = started(BOOK, {"pages": given, "options": {"at_once": at_once}})
    count = 4 if mixed else 3
    left = count
    while left:
        waiting = [one for one in engine.executions(workflow=PAGE) if one.state == "waiting"]
        assert len(waiting) == min(at_once, left)
        engine.resume(waiting[-1].execution_id, 7)
        driver.settle()
        left -= 1
    assert engine.status(execution.execution_id).output_data == {"parts": [{"n": 7}] * 6}
    assert engine.executions(workflow=PAGE).count() == count


def test_c1_a_child_that_others_hold_takes_no_place_of_at_once(engine, driver, started):
    pages = [{"n": 1, "waits": True, "id": "a"}, {"n": 2, "id": "b"}]
    first = started(BOOK, {"pages": pages, "options": {"at_once": 1}})
    second = started(BOOK, {"pages": [pages[1], {"n": 3}, pages[0]], "options": {"at_once": 1}})
    assert [calls(f"page {n}") for n in (2, 3)] == [0, 1]
    assert str(second.children) == "1 of 3"
    engine.resume(next(iter(engine.executions(workflow=PAGE, state="waiting"))).execution_id, 7)
    driver.settle()
    for one in (first, second):
        assert engine.status(one.execution_id).state == "completed"
