"""What a start that is stored keeps of its handler: a path that a worker can import."""

from dataclasses import dataclass

from general_manager.conf import get_workflow_settings
from general_manager.workflow.encoding import error_text
from general_manager.workflow.engine import WorkflowDefinition, WorkflowHandler
from general_manager.workflow.exceptions import (
    HandlerNotAllowedError,
    HandlerNotImportableError,
)
from general_manager.workflow.handler_modules import is_allowed, resolve_handler
from general_manager.workflow.importing import describe, path_of
from general_manager.workflow.models.execution import MAX_PATH_LENGTH


@dataclass(frozen=True, slots=True)
class Handler:
    """What a start stores of its handler: a *path*, what is wrong with it, and what only this
    process has.
    """

    path: str | None = None
    error: str | None = None
    own: WorkflowHandler | None = None


def find_handler(workflow: WorkflowDefinition) -> Handler:
    """A path comes from the definition alone, never from what `start` was given."""
    handler = workflow.handler
    if handler is None:
        return _named(workflow.metadata.get("handler_path"))
    name = describe(handler)
    path = path_of(handler) if is_allowed(name) else None
    if path is not None and len(path) <= MAX_PATH_LENGTH:
        return Handler(path)
    if not get_workflow_settings().run_async:
        return Handler(name[:MAX_PATH_LENGTH], own=handler)
    if path is not None:
        return Handler(error=_too_long(path))
    is_nowhere = "<" in name or name.startswith("__main__.")
    if not is_nowhere and not is_allowed(name):
        return Handler(error=str(HandlerNotAllowedError(name)))
    return Handler(error=str(HandlerNotImportableError(workflow.workflow_id, name)))


def _named(given: object) -> Handler:
    if given is None:
        return Handler()
    path = str(given)
    try:
        handler = resolve_handler(path)
    except Exception as error:  # noqa: BLE001 - a module that is imported runs the user's code
        return Handler(error=error_text(error))
    if not callable(handler):
        return Handler(error=f'metadata["handler_path"] names {path!r}, which is not callable')
    return Handler(path, error=_too_long(path) if len(path) > MAX_PATH_LENGTH else None)


def _too_long(path: str) -> str:
    return f"The path {path!r} of the handler has more than {MAX_PATH_LENGTH} characters."
