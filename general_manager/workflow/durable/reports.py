"""What a handler reports of its progress: the last value of each name, written now and then."""

from collections.abc import Mapping
from json import dumps
from time import monotonic
from typing import Any, Final, Protocol

from general_manager.workflow.core.encoding import encode
from general_manager.workflow.core.ids import require_id
from general_manager.workflow.exceptions import EncodingError

PROGRESS: Final = "progress"
"""The name that pages show as a bar."""
MOST_REPORTS: Final = 20
LARGEST_REPORT: Final = 4_000
"""Bytes of a reported value as JSON: it is written often, with the others of its execution."""
REPORT_SECONDS: Final = 1.0
"""At most one write in so many seconds; the last value is written when the run ends."""


class Write(Protocol):
    def __call__(self, values: Mapping[str, Any], *, at_end: bool) -> bool:
        """Add *values* to those of the execution; false if a transaction forbids it for now."""
        ...


class Reports:
    """The values that one run reports.

    A run that *repeats* an earlier one reports old values again at first: they are held back for a
    moment, so that the progress does not jump.
    """

    def __init__(self, write: Write, *, repeats: bool) -> None:
        self._write = write
        self._left: dict[str, Any] = {}
        self._names: set[str] = set()
        self._written = monotonic() if repeats else float("-inf")

    def report(self, name: str, value: Any) -> None:
        require_id("A report's name", name)
        encoded = encode(value, root=f"the report {name!r}")
        size = len(dumps(encoded, ensure_ascii=False).encode())
        if size > LARGEST_REPORT:
            raise EncodingError(
                f"the report {name!r}",
                f"it is {size:,} bytes of JSON, and at most {LARGEST_REPORT:,} are kept",
            )
        self._names.add(name)
        if len(self._names) > MOST_REPORTS:
            raise EncodingError(f"the report {name!r}", f"a run has more than {MOST_REPORTS} names")
        self._left[name] = encoded
        self.write_if_due()

    def write_if_due(self) -> None:
        if self._left and monotonic() - self._written >= REPORT_SECONDS:
            self.write()

    def write(self, *, at_end: bool = False) -> None:
        if self._left and self._write(self._left, at_end=at_end):
            self._left = {}
            self._written = monotonic()
