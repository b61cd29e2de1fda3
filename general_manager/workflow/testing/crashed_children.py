"""Children of a workflow that crashes: they are not run, and their outputs are given."""

from collections.abc import Sequence
from typing import Any

from general_manager.workflow.durable.children.specs import Child, ChildOutcome
from general_manager.workflow.engine import WorkflowState


def outcomes_of(name: str, children: Sequence[Child], outputs: Any) -> list[ChildOutcome]:
    """*outputs* as what the children of gather *name* came to, one for each."""
    if not isinstance(outputs, list) or len(outputs) != len(children):
        what = f"{len(outputs)} outputs" if isinstance(outputs, list) else repr(outputs)
        raise AssertionError(
            f"gather({name!r}) has {len(children)} children, and its answer is {what}: give a list "
            "with one output for each."
        )
    return [
        ChildOutcome(
            place, one.key or "", one.definition.workflow_id, "", WorkflowState.COMPLETED, output
        )
        for place, (one, output) in enumerate(zip(children, outputs, strict=True))
    ]
