"""Named actions: side effects of workflows, looked up by name so that they can be replaced."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from threading import Lock
from typing import Any, Protocol, TypeGuard, TypeVar, runtime_checkable

from general_manager.workflow.core.ids import require_id
from general_manager.workflow.core.populations import code_of, current_population
from general_manager.workflow.exceptions import ActionAlreadyRegisteredError, ActionNotFoundError

__all__ = [
    "Action",
    "ActionAlreadyRegisteredError",
    "ActionCallable",
    "ActionNotFoundError",
    "ActionRegistry",
    "action_registry",
]

F = TypeVar("F", bound=Callable[..., Any])


@runtime_checkable
class Action(Protocol):
    """An object that acts: *context* is the user or run, *params* are the arguments."""

    def execute(self, context: Any, params: Mapping[str, Any]) -> Any: ...


ActionCallable = Callable[..., Any]
"""An action may also be any callable that takes keyword arguments."""


class ActionRegistry:
    """Actions by name. Thread-safe.

    An action is a function that takes keyword arguments, or an object with
    ``execute(context, params)``; `run` and `execute` call either.

    ::

        actions = ActionRegistry()

        @actions.action("send_email")
        def send_email(*, to, subject): ...

        actions.run("send_email", to="ops@example.test", subject="Apollo is active")
        actions.execute("send_email", params={"to": "ops@example.test", "subject": "Apollo"})
    """

    def __init__(self) -> None:
        self._actions: dict[str, Action | ActionCallable] = {}
        self._made_in: dict[str, object | None] = {}
        self._lock = Lock()

    def register(
        self, name: str, action: Action | ActionCallable, *, replace: bool = False
    ) -> None:
        """Register *action* as *name*.

        Registering the same action again changes nothing. Raises `ActionAlreadyRegisteredError`
        if another action has the name, unless *replace* is true. An action that the same code
        creates again while Django repopulates its apps counts as the same.
        """
        require_id("An action's name", name)
        if not _is_action(action) and not callable(action):
            raise TypeError(
                f"Action {name!r} must be callable or have execute(context, params), not {action!r}"
            )
        with self._lock:
            known = self._actions.get(name, action)
            if not replace and known != action and not self._is_made_anew(name, known, action):
                raise ActionAlreadyRegisteredError(name)
            self._actions[name] = action
            self._made_in[name] = current_population()

    def _is_made_anew(self, name: str, known: object, action: object) -> bool:
        now, then = current_population(), self._made_in[name]
        is_again = now is not None and then is not None and now is not then
        return is_again and code_of(known) == code_of(action)

    def action(self, name: str) -> Callable[[F], F]:
        """Register the decorated function as *name*."""

        def register(function: F) -> F:
            self.register(name, function)
            return function

        return register

    def get(self, name: str) -> Any:
        """Return the action, or raise `ActionNotFoundError` with the closest name."""
        try:
            return self._actions[name]
        except KeyError:
            near = get_close_matches(str(name), self._actions, n=1)
            raise ActionNotFoundError(name, near[0] if near else None) from None

    def run(self, name: str, /, **arguments: Any) -> Any:
        """Call the action with *arguments*; an object with `execute` gets them as its params."""
        return self.execute(name, params=arguments)

    def execute(
        self, name: str, *, context: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Execute the action with *params* in *context*.

        A function gets *params* as keyword arguments, and *context* too if one is given and it
        has a parameter of that name.
        """
        action = self.get(name)
        given = dict(params or {})
        if _is_action(action):
            return action.execute(context, given)
        if context is not None and "context" not in given and _takes_context(action):
            given["context"] = context
        return action(**given)

    def names(self) -> list[str]:
        return sorted(self._actions)

    def __contains__(self, name: object) -> bool:
        return name in self._actions


def _is_action(action: object) -> TypeGuard[Action]:
    # A class is called like a function: its `execute` needs an instance.
    return not isinstance(action, type) and isinstance(action, Action)


def _takes_context(function: ActionCallable) -> bool:
    try:
        return "context" in signature(function).parameters
    except (TypeError, ValueError):  # a built-in without a signature
        return False


action_registry = ActionRegistry()
"""A ready-made registry, enough for most projects."""
