"""Whether managers' changes become events: the setting, or what code has said since."""

from general_manager.conf import get_workflow_settings

_forced: bool | None = None


def force(*, on: bool | None) -> None:
    """On or off regardless of `WORKFLOW_SIGNAL_BRIDGE`; `None` follows the setting again."""
    global _forced
    _forced = on


def is_on() -> bool:
    return get_workflow_settings().signal_bridge if _forced is None else _forced
