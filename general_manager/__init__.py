"""Event-driven, durable workflows on the Django and Celery that a team already runs.

Public names are imported on first use, so importing this package does not need a configured
Django.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from general_manager.manager import GeneralManager, PublishingQuerySet, track_changes

__version__ = "0.1.0"
__all__ = ["GeneralManager", "PublishingQuerySet", "__version__", "track_changes"]

_WHERE = {
    "GeneralManager": "general_manager.manager",
    "PublishingQuerySet": "general_manager.manager",
    "track_changes": "general_manager.manager",
}


def __getattr__(name: str) -> Any:
    try:
        module = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
