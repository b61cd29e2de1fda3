"""The part of a run's store that keeps children, as a protocol."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from general_manager.workflow.durable.children.specs import Child, ChildOutcome, GatherOptions

Record_co = TypeVar("Record_co", covariant=True)


class ChildStore(Protocol[Record_co]):
    """Where one run starts children and finds what they came to.

    Raises as the rest of the store does: `StopRun` if the run no longer holds the execution, and
    `EndRequested` if that is to end.
    """

    def start_children(self, name: str, children: Sequence[Child], options: GatherOptions) -> None:
        """Start those that are not started yet, then record that the execution waits for all."""
        ...

    def look_at_children(self, name: str) -> Record_co:
        """Copy the outcomes of children that are over; the gather as it is then.

        Settled if all are over, or timed out if it is due.
        """
        ...

    def close_children(self, name: str) -> Record_co | None:
        """Stop the execution's own children of the gather; `None` if it has started none.

        The gather is closed once all of its children are over.
        """
        ...

    def stop_late_children(self, name: str) -> None:
        """Stop children that were not over when the gather timed out, if any are left."""
        ...

    def child_outcomes(self, name: str) -> list[ChildOutcome]:
        """What every child of a settled gather came to, in order."""
        ...
