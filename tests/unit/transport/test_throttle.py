"""Calls of which one can stand for several."""

import os
from functools import partial
from threading import Event

import pytest

from general_manager.workflow.transport.throttle import Throttle
from tests.bare import run_bare

HOUR = 3600


@pytest.fixture
def throttle():
    throttle = Throttle(HOUR)
    yield throttle
    for timer, _ in throttle._late.values():
        timer.cancel()


def test_the_first_call_is_made_at_once_and_the_next_ones_share_a_later_one(throttle):
    made = []
    throttle.call("a", lambda: made.append(1))
    assert made == [1]
    throttle.call("a", lambda: made.append(2))
    throttle.call("a", lambda: made.append(3))
    assert made == [1]
    throttle.flush()
    assert made == [1, 2]


def test_every_key_has_calls_of_its_own(throttle):
    made: list[str] = []
    for key in "aabb":
        throttle.call(key, partial(made.append, key))
    assert made == ["a", "b"]
    throttle.flush()
    assert made == ["a", "b", "a", "b"]


def test_what_was_flushed_is_not_called_again(throttle):
    made: list[int] = []
    for number in range(2):
        throttle.call("a", partial(made.append, number))
    throttle.flush()
    throttle.flush()
    throttle._call_late("a")  # a timer that had gone off already
    assert made == [0, 1]


def test_a_delayed_call_is_called_after_a_while_without_anybody_asking():
    throttle, called = Throttle(0.01), Event()
    for _ in range(2):
        called.clear()
        throttle.call("a", called.set)
    assert called.wait(timeout=60)


def test_what_comes_after_the_interval_is_called_at_once():
    throttle, made = Throttle(0), list[int]()
    for number in range(3):
        throttle.call("a", partial(made.append, number))
    assert made == [0, 1, 2]


def test_a_delayed_call_is_still_called_when_the_interpreter_ends():
    result = run_bare(
        "from general_manager.workflow.transport.throttle import Throttle\n"
        "throttle = Throttle(0.2)\n"
        "for number in range(2):\n"
        "    throttle.call('a', lambda number=number: print(number, flush=True))\n"
        "print('end', flush=True)\n"
    )
    assert (result.stdout, result.stderr) == ("0\nend\n1\n", "")


def test_a_call_while_the_interpreter_ends_is_made_at_once():
    result = run_bare(
        "import atexit\n"
        "from general_manager.workflow.transport.throttle import Throttle\n"
        "throttle = Throttle(0.2)\n"
        "@atexit.register\n"
        "def end():\n"
        "    for number in range(2):\n"
        "        throttle.call('a', lambda number=number: print(number, flush=True))\n"
    )
    assert (result.stdout.split(), result.stderr) == (["0", "1"], "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork")
def test_a_forked_process_calls_for_itself_and_leaves_its_parents_calls_alone():
    result = run_bare(
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from general_manager.workflow.transport.throttle import Throttle\n"
        "throttle = Throttle(1)\n"
        "say = lambda word: lambda: print(word, flush=True)\n"
        "throttle.call('a', say('first'))\n"
        "throttle.call('a', say('late'))\n"
        "if os.fork() == 0:\n"
        "    throttle.flush()\n"
        "    throttle.call('a', say('child'))\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    assert (result.stdout.split(), result.stderr) == (["first", "child", "late"], "")
