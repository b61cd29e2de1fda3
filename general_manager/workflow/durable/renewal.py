"""Ending a run as a new execution, so that an endless workflow has no endless history."""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from general_manager.workflow.core.encoding import encode_mapping
from general_manager.workflow.durable.continuation import OUTDATED
from general_manager.workflow.durable.run import Run
from general_manager.workflow.durable.stops import StopRun
from general_manager.workflow.exceptions import StepUsageError

RENEWED_AS: Final = "continued_as"
"""The key in the metadata of an execution that continued as new: the id of the next one."""


class ContinuedAsNew(StopRun):
    """The run ends; a new execution goes on with *input_data*, which is encoded."""

    def __init__(self, input_data: dict[str, Any]) -> None:
        super().__init__()
        self.input_data = input_data


def end_as_new(run: Run, input_data: Mapping[str, Any]) -> NoReturn:
    """Leave the handler; the engine then ends the execution and starts the next one."""
    encoded = encode_mapping(input_data, root="input_data")
    left = run.require_nothing_open("continue_as_new()")
    if left:
        raise StepUsageError(
            f"continue_as_new() is called while the wait {left!r} is open: the new execution could "
            "not be asked for it. Reach the wait first, or give it a timeout."
        )
    if run.sagas.unfinished:
        raise StepUsageError(
            f"continue_as_new() is called while the saga {run.sagas.unfinished!r} is open: the new "
            "execution could not undo it. Leave its block first."
        )
    run.stopped = ContinuedAsNew(encoded)
    raise run.stopped


def renewed_metadata(metadata: Mapping[str, Any], execution_id: str) -> dict[str, Any]:
    """The metadata that the new execution takes over from *execution_id*."""
    kept = {name: value for name, value in metadata.items() if name not in OUTDATED}
    return {**kept, "continues": execution_id}
