"""What is stored of an exception, and what is raised for it, in the first run and in later ones."""

import json

import pytest

from general_manager.workflow import PermanentFailure, RetryAfter, StepFailed, WaitTimeout
from general_manager.workflow.durable.failures import failure_of, raised_again, raised_first
from general_manager.workflow.exceptions import EncodingError, TransactionLeftOpen
from tests.testapp.plays import DeclinedError, UnknownBankError, UnspeakableError


class WithStateError(Exception):
    code: object = None


def both(error, *, is_final=False):
    """What is raised first, and again, by way of JSON."""
    failure = failure_of(error, is_final=is_final)
    stored = json.loads(json.dumps(failure.to_json()))
    return raised_first("pay", error, failure, 3), raised_again("pay", stored, 3)


def with_state():
    error = WithStateError("a", 1)
    error.code = {"reason": [1, None, True, 1.5]}
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a"),
        ValueError(),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "a.txt"),
        ConnectionRefusedError(111, "refused"),
        with_state(),
        DeclinedError(code=51),
        PermanentFailure("never"),
        RetryAfter(5, "busy"),
        WaitTimeout("answer"),
        EncodingError("payload.x", "it is a set"),
        TransactionLeftOpen("step 'a'", ["default"]),
        StepFailed("inner", "text", "builtins.ValueError", 2),
    ],
    ids=repr,
)
def test_what_can_be_rebuilt_comes_as_itself(error):
    first, again = both(error)
    assert first is error
    assert type(again) is type(error)
    assert (again.args, str(again)) == (error.args, str(error))
    state = {name: value for name, value in vars(again).items() if name != "__notes__"}
    assert state == vars(error)


@pytest.mark.parametrize(
    "error",
    [
        UnknownBankError(object()),
        UnspeakableError(),
        ValueError(b"bytes"),
        ValueError((1, 2)),
        ValueError({1: 2}),
        ValueError("\x00"),
        ValueError("\ud800"),
        ValueError(float("nan")),
        ValueError("x" * 20_000),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ExceptionGroup("both", [ValueError("a")]),
        type("LocalError", (Exception,), {})("a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_rebuilt_comes_as_step_failed_from_the_first_raise_on(error):
    first, again = both(error)
    assert type(first) is type(again) is StepFailed
    assert first.args == again.args
    assert first.kind.endswith(type(error).__qualname__)


def test_attributes_that_json_cannot_store_are_left_out_in_the_first_run_too():
    first, again = both(DeclinedError(code=51, body=object()))
    assert type(first) is type(again) is DeclinedError
    assert first.code == again.code == 51
    assert not hasattr(again, "body")
    assert not hasattr(first, "body")


@pytest.mark.parametrize("error", [ValueError("a"), UnknownBankError(object())])
def test_a_step_with_a_budget_raises_step_failed_with_the_rebuilt_cause(error):
    first, again = both(error, is_final=True)
    assert type(first) is type(again) is StepFailed
    assert first.args == again.args
    assert again.attempts == 3
    assert str(again) == f"Step 'pay' failed after 3 attempts: {error}"
    if isinstance(error, ValueError):
        assert repr(again.__cause__) == repr(error)


def test_the_recorded_traceback_is_shown_with_what_is_rebuilt():
    try:
        raise ValueError("a")
    except ValueError as error:
        _, again = both(error)
    assert "test_the_recorded_traceback" in again.__notes__[0]


@pytest.mark.parametrize(
    "kind", ["no.such.Error", "general_manager.nowhere.Error", "builtins.print", "json.JSONDecoder"]
)
def test_a_class_that_is_gone_or_is_not_an_exception_is_not_called(kind, caplog):
    stored = failure_of(ValueError("a"), is_final=False).to_json()
    again = raised_again("pay", {**stored, "kind": kind}, 1)
    assert isinstance(again, StepFailed)
    assert again.error == "a"
    assert kind in caplog.text


def test_a_package_that_is_not_loaded_is_not_imported_for_a_row():
    import sys

    assert "this" not in sys.modules
    stored = failure_of(ValueError("a"), is_final=False).to_json()
    assert type(raised_again("pay", {**stored, "kind": "this.Error"}, 1)) is StepFailed
    assert "this" not in sys.modules
