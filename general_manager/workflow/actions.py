"""Named actions: what workflows do to the world, looked up by name so that it can be exchanged."""

from collections.abc import Callable
from difflib import get_close_matches
from threading import Lock
from typing import Any, Protocol, TypeVar

from general_manager.workflow.exceptions import ActionAlreadyRegisteredError, ActionNotFoundError
from general_manager.workflow.ids import require_id

F = TypeVar("F", bound=Callable[..., Any])


class Action(Protocol):
    """Anything callable with keyword arguments."""

    def __call__(self, **arguments: Any) -> Any: ...


class ActionRegistry:
    """Actions by name; safe to use from several threads.

    ::

        actions = ActionRegistry()

        @actions.action("send_email")
        def send_email(*, to, subject): ...

        actions.run("send_email", to="ops@example.test", subject="Apollo is active")
    """

    def __init__(self) -> None:
        self._actions: dict[str, Callable[..., Any]] = {}
        self._lock = Lock()

    def register(self, name: str, action: Callable[..., Any], *, replace: bool = False) -> None:
        """Make *action* known as *name*.

        Registering the same action again changes nothing. Raises `ActionAlreadyRegisteredError`
        if another one has the name, unless *replace* is true.
        """
        require_id("An action's name", name)
        if not callable(action):
            raise TypeError(f"Action {name!r} must be callable, not {action!r}")
        with self._lock:
            if not replace and self._actions.get(name, action) != action:
                raise ActionAlreadyRegisteredError(name)
            self._actions[name] = action

    def action(self, name: str) -> Callable[[F], F]:
        """Register the decorated function as *name*."""

        def register(function: F) -> F:
            self.register(name, function)
            return function

        return register

    def get(self, name: str) -> Callable[..., Any]:
        """Return the action, or raise `ActionNotFoundError` with the nearest name there is."""
        try:
            return self._actions[name]
        except KeyError:
            near = get_close_matches(str(name), self._actions, n=1)
            raise ActionNotFoundError(name, near[0] if near else None) from None

    def run(self, name: str, /, **arguments: Any) -> Any:
        return self.get(name)(**arguments)

    def names(self) -> list[str]:
        return sorted(self._actions)

    def __contains__(self, name: object) -> bool:
        return name in self._actions


action_registry = ActionRegistry()
"""One registry for projects that need no more than one."""
