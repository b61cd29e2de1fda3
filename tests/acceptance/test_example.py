"""The example project's own tests, as its developers run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("mode", ["local", "in-process"])
def test_the_tests_of_the_example_pass(mode, tmp_path):
    paths = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    own = {"EXAMPLE_VAR_DIR": str(tmp_path), "EXAMPLE_MODE": mode, "PYTHONPATH": paths}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    result = subprocess.run(
        [sys.executable, "manage.py", "test", "projects"],
        cwd=CHECKOUT / "example",
        env={**kept, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Ran 5 tests" in result.stderr
