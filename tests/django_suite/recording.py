"""What happens in a run, a line of JSON each: the tests' outcomes, and what the oracle found."""

import json
import os
import threading
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("SUITE_OUTPUT", "."))
_here = threading.local()
_test: list[str | None] = [None]


def note(name: str, **what: Any) -> None:
    """Add a line to a file; short enough that lines of parallel processes do not mix."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"test": _test[0], **what}, default=repr) + "\n"
    descriptor = os.open(FOLDER / f"{name}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(descriptor)


@contextmanager
def unlogged() -> Iterator[None]:
    """Meanwhile statements do not count as the test's."""
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1


def is_unlogged() -> bool:
    return getattr(_here, "depth", 0) > 0


def record_results() -> None:
    """Note each test's outcome, in the process that gathers them."""
    process = os.getpid()
    result: Any = unittest.TextTestResult

    def recording(name: str, outcome: str) -> None:
        original = getattr(result, name)

        def record(self: Any, test: Any, *more: Any) -> Any:
            if os.getpid() == process:
                text = ""
                if outcome in {"fail", "error"}:
                    error = more[0]
                    text = (
                        error if isinstance(error, str) else self._exc_info_to_string(error, test)
                    )
                note("results", id=test.id(), outcome=outcome, text=text[-4000:])
            return original(self, test, *more)

        setattr(result, name, record)

    for name, outcome in {
        "addSuccess": "ok",
        "addFailure": "fail",
        "addError": "error",
        "addSkip": "skip",
        "addExpectedFailure": "ok",
        "addUnexpectedSuccess": "fail",
    }.items():
        recording(name, outcome)
    of_subtest = result.addSubTest

    def record_subtest(self: Any, test: Any, subtest: Any, error: Any) -> None:
        if error is not None and os.getpid() == process:
            text = self._exc_info_to_string(error, test)
            note("results", id=test.id(), outcome="fail", text=text[-4000:])
        of_subtest(self, test, subtest, error)

    result.addSubTest = record_subtest
    case: Any = unittest.TestCase
    run = case.run

    def run_named(self: unittest.TestCase, found: Any = None) -> Any:
        before, _test[0] = _test[0], self.id()
        try:
            return run(self, found)
        finally:
            _test[0] = before

    case.run = run_named


def leave_counts_to_the_eye() -> None:
    """Note a wrong count of statements instead of failing: tracking reads what it reports."""
    from django.db.backends import utils
    from django.db.backends.base import base
    from django.test import testcases
    from django.test.utils import CaptureQueriesContext

    def quiet(original: Any) -> Any:
        @contextmanager
        def logged(*arguments: Any, **options: Any) -> Iterator[None]:
            if is_unlogged():
                yield
            else:
                with original(*arguments, **options):
                    yield

        return logged

    wrapper: Any = utils.CursorDebugWrapper
    wrapper.debug_sql = quiet(wrapper.debug_sql)
    module: Any = base
    module.debug_transaction = quiet(module.debug_transaction)

    def leave(self: Any, kind: Any, value: Any, traceback: Any) -> None:
        CaptureQueriesContext.__exit__(self, kind, value, traceback)
        if kind is None and len(self) != self.num:
            note("counts", wanted=self.num, got=len(self))

    asserting: Any = testcases._AssertNumQueriesContext
    asserting.__exit__ = leave
