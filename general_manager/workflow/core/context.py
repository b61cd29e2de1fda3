"""The workflow run that the current code belongs to, for steps and events."""

from contextvars import ContextVar, Token
from typing import Any, Final

_current: Final[ContextVar[Any]] = ContextVar("general_manager_run", default=None)


def enter_run(run: Any) -> Token[Any]:
    """Make *run* the current run for `step`, `wait_for` and `sleep`; `None` for no run."""
    return _current.set(run)


def leave_run(token: Token[Any]) -> None:
    """Restore the run from before `enter_run`."""
    _current.reset(token)


def current_run() -> Any:
    """The `Run` that this code belongs to, or `None`."""
    return _current.get()
