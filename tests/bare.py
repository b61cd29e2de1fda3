"""An interpreter of its own, without Django's settings."""

import subprocess
import sys
from pathlib import Path

import general_manager

PACKAGE = Path(general_manager.__file__).parent


def run_bare(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run *code* there, every warning an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
