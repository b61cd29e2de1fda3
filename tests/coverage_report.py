"""Report the coverage; of a whole run, ask for 95 %. A chosen part of the tests covers a part.

The whole runs on SQLite, so the tests of what only PostgreSQL does are run there first.
"""

import os
import subprocess
import sys

ON_POSTGRESQL = (
    "executions/test_batches.py",
    "core/test_prepared.py",
    "core/test_cursors.py",
    "outbox/test_savepoints.py",
    "manager/user_rows/test_returning.py",
    "transport/test_nudges.py",
)


def coverage(*arguments: str, **environment: str) -> None:
    """Ends this program too if it fails."""
    command = [sys.executable, "-m", "coverage", *arguments]
    if status := subprocess.call(command, env={**os.environ, **environment}):
        sys.exit(status)


is_whole = not sys.argv[1:]
if is_whole:
    tests = [f"tests/integration/{one}" for one in ON_POSTGRESQL]
    coverage("run", "-m", "pytest", *tests, TEST_DATABASE="postgresql", TEST_REPORT="")
coverage("combine", "--quiet")
coverage("report", *(["--fail-under=95"] if is_whole else []))
