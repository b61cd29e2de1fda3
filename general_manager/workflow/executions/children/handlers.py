"""The handler as a stored execution keeps it: a path that a worker can import."""

from dataclasses import dataclass
from datetime import datetime

from general_manager.conf import get_workflow_settings
from general_manager.workflow.core.encoding import error_text
from general_manager.workflow.core.importing import describe, path_of
from general_manager.workflow.engine import WorkflowDefinition, WorkflowHandler
from general_manager.workflow.executions.handler_modules import (
    is_allowed,
    not_importable,
    resolve_handler,
)
from general_manager.workflow.models.execution import MAX_PATH_LENGTH


@dataclass(frozen=True, slots=True)
class StoredHandler:
    """The *path* of a handler, or the *error* with it; *own* is a handler of this process only."""

    path: str | None = None
    error: str | None = None
    own: WorkflowHandler | None = None


def stored_handler(workflow: WorkflowDefinition) -> StoredHandler:
    """The path comes from the definition only, never from the arguments of `start`."""
    handler = workflow.handler
    if handler is None:
        return _named(workflow.metadata.get("handler_path"))
    name = describe(handler)
    path = path_of(handler) if is_allowed(name) else None
    if path is not None and len(path) <= MAX_PATH_LENGTH:
        return StoredHandler(path)
    if not get_workflow_settings().run_async:
        return StoredHandler(name[:MAX_PATH_LENGTH], own=handler)
    if path is not None:
        return StoredHandler(error=_too_long(path))
    return StoredHandler(error=str(not_importable(workflow.workflow_id, name)))


def _named(given: object) -> StoredHandler:
    if given is None:
        return StoredHandler()
    path = str(given)
    try:
        handler = resolve_handler(path)
    except Exception as error:  # noqa: BLE001 - importing a module runs the user's code
        return StoredHandler(error=error_text(error))
    if not callable(handler):
        return StoredHandler(
            error=f'metadata["handler_path"] names {path!r}, which is not callable'
        )
    return StoredHandler(path, error=_too_long(path) if len(path) > MAX_PATH_LENGTH else None)


def _too_long(path: str) -> str:
    return f"The path {path!r} of the handler has more than {MAX_PATH_LENGTH} characters."


def error_of(
    handler: StoredHandler, workflow: WorkflowDefinition, later: datetime | None
) -> str | None:
    """Why the execution fails as it is started, if it does."""
    may_wait = later is not None or workflow.limit is not None or workflow.rate is not None
    if handler.error is None and handler.own is not None and may_wait:
        # By then this process may be gone, and no other could import the handler.
        return error_text(not_importable(workflow.workflow_id, str(handler.path)))
    return handler.error
