"""Definitions, retries and errors as plain values."""

import pickle
from datetime import timedelta

import pytest

from general_manager.workflow import exceptions
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.engine import Retry, WorkflowDefinition, WorkflowEngine, WorkflowState


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workflow_id": ""}, "workflow_id must not be empty"),
        ({"workflow_id": 3}, "workflow_id must be text"),
        ({"workflow_id": "x" * 300}, "workflow_id has 300 characters"),
        ({"version": 2}, "version must be text"),
        ({"handler": "app.tasks.run"}, "handler of workflow 'w' must be callable"),
        ({"metadata": []}, "metadata must be a mapping"),
        ({"retry": 3}, "retry must be a Retry"),
    ],
)
def test_a_wrong_definition_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        WorkflowDefinition(**{"workflow_id": "w", **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_attempts": 0},
        {"max_attempts": 2.5},
        {"max_attempts": True},
        {"base": -1},
        {"base": "10"},
        {"factor": 0.5},
        {"maximum": float("inf")},
        {"jitter": 2},
        {"stop_on": ValueError},
        {"stop_on": (1,)},
        {"stop_on": (KeyboardInterrupt,)},
    ],
)
def test_a_wrong_retry_is_refused_by_name(arguments):
    with pytest.raises((TypeError, ValueError), match=f"Retry.{next(iter(arguments))}"):
        Retry(**arguments)


def test_rests_grow_to_their_maximum():
    retry = Retry(base=10, factor=2, maximum=35, jitter=0)
    assert [retry.delay(n).total_seconds() for n in (1, 2, 3, 4, 5000)] == [10, 20, 35, 35, 35]


def test_rests_are_spread():
    rests = {Retry(base=10, jitter=0.2).delay(1) for _ in range(50)}
    assert len(rests) > 1
    assert all(timedelta(seconds=8) <= rest <= timedelta(seconds=12) for rest in rests)


def test_a_state_is_its_text():
    assert WorkflowState("waiting") is WorkflowState.WAITING
    assert f"{WorkflowState.WAITING}" == "waiting"
    assert [str(state) for state in WorkflowState] == (
        ["pending", "running", "waiting", "completed", "failed", "cancelled"]
    )


def test_the_local_engine_is_an_engine():
    assert isinstance(LocalWorkflowEngine(), WorkflowEngine)


ERRORS = [
    exceptions.EncodingError("payload.a", "bytes"),
    exceptions.PermanentFailure("never"),
    exceptions.RetryAfter(5, "busy"),
    exceptions.WorkflowExecutionNotFoundError("1"),
    exceptions.WorkflowInvalidStateError("1", "resume", "failed", ("waiting",), "Really."),
    exceptions.WorkflowCancelledError("1", "resume", "cancelled", ("waiting",)),
    exceptions.WorkflowWaitMismatchError("1", "resume", "waiting", ("waiting",)),
    exceptions.WaitTimeout("approval"),
    exceptions.StepUsageError("twice"),
    exceptions.StepInDoubt("1", "charge"),
    exceptions.ActionNotFoundError("sendmail", "send_mail"),
    exceptions.ActionAlreadyRegisteredError("send_mail"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_its_words_and_attributes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) != ""
    assert vars(again) == vars(error)
    assert isinstance(error, exceptions.WorkflowError)


def test_a_state_error_names_the_states():
    error = exceptions.WorkflowInvalidStateError("7", "cancel", "failed", ("pending", "running"))
    assert str(error) == (
        "Cannot cancel workflow execution 7: it is failed. "
        "Only pending or running executions can be cancelled."
    )


@pytest.mark.parametrize("seconds", ["5", None, True, -1, float("inf"), float("nan")])
def test_retry_after_takes_a_finite_time(seconds):
    with pytest.raises((TypeError, ValueError), match="RetryAfter takes"):
        exceptions.RetryAfter(seconds)


def test_retry_after_takes_a_timedelta():
    assert exceptions.RetryAfter(timedelta(minutes=1)).seconds == 60
