"""Which functions a dotted path may name: workers run the project's own code only.

The path is checked before anything is imported, and the function it names is checked again: a
module that the project imports is not part of the project.
"""

from collections.abc import Callable
from functools import cache
from inspect import isclass, ismodule, isroutine
from typing import Any

from django.apps import apps
from django.core.signals import setting_changed

from general_manager.conf import get_workflow_settings, is_configured, is_ours, root_urlconf
from general_manager.workflow.core.importing import resolve
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.exceptions import HandlerNotAllowedError, HandlerNotImportableError

SETTING = "WORKFLOW_HANDLER_MODULES"


def is_allowed(path: str) -> bool:
    """Whether *path* is in one of the allowed modules. Imports nothing.

    These are `WORKFLOW_HANDLER_MODULES`, or by default the installed apps, the package of
    `ROOT_URLCONF` and the packages of registered handlers. Without a project, every path is
    allowed.
    """
    if not is_configured():
        return True
    above = _prefixes(path)
    if above & _configured_modules():
        return True
    return get_workflow_settings().handler_modules is None and any(
        _package_of(one.handler) in above for one in get_event_registry().registrations()
    )


def not_importable(workflow_id: str, path: str) -> HandlerNotImportableError:
    """Why only the process that started it can run the handler at *path*."""
    is_nowhere = "<" in path or path.startswith("__main__.")
    why = "" if is_nowhere or is_allowed(path) else str(HandlerNotAllowedError(path))
    return HandlerNotImportableError(workflow_id, path, why)


def require_allowed(path: str) -> None:
    """Raises `HandlerNotAllowedError`, which names the setting."""
    if not is_allowed(path):
        raise HandlerNotAllowedError(path)


def resolve_handler(path: str) -> Any:
    """The object that *path* names; it may not be callable.

    Raises `HandlerNotAllowedError` if it is not the project's own, and `ImportError` if it is not
    found.
    """
    require_allowed(path)
    found = resolve(path)
    if ismodule(found) or not _is_own(found):
        raise HandlerNotAllowedError(path)
    return found


def _is_own(found: Any) -> bool:
    """False for a function or class that the module only imported, and for its methods."""
    if not (isroutine(found) or isclass(found)):
        return True  # an instance, created by the project
    module = getattr(found, "__module__", None)
    owner = getattr(found, "__self__", None)
    if module is None and owner is not None:
        module = getattr(owner, "__module__", None) or type(owner).__module__
    return isinstance(module, str) and is_allowed(module)


def _prefixes(path: str) -> set[str]:
    parts = path.split(".")
    return {".".join(parts[: length + 1]) for length in range(len(parts))}


@cache
def _configured_modules() -> frozenset[str]:
    given = get_workflow_settings().handler_modules
    if given is not None:
        return given
    urls = root_urlconf()
    found = {one.name for one in apps.get_app_configs()}
    return frozenset(found | ({urls.partition(".")[0]} if urls else set()))


def _package_of(handler: Callable[..., Any]) -> str:
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return str(module).partition(".")[0]


def _forget(*, setting: str, **_: object) -> None:
    if is_ours(setting) or setting in ("INSTALLED_APPS", "ROOT_URLCONF"):
        _configured_modules.cache_clear()


setting_changed.connect(_forget, dispatch_uid="general_manager.workflow.executions.handler_modules")
