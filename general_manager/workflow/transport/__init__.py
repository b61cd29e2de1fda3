"""Messages to workers, and the current transport."""

from typing import Final

from general_manager.loading import BackendSlot
from general_manager.workflow.transport.base import Transport

_slot: Final[BackendSlot[Transport]] = BackendSlot(
    "WORKFLOW_TRANSPORT",
    lambda settings: settings.transport,
    methods=("send", "here", "runs_at_once", "check"),
)


def get_transport() -> Transport:
    """The transport that `WORKFLOW_TRANSPORT` names; always the same instance.

    Raises `ImproperlyConfigured` if the setting is wrong.
    """
    return _slot.get()


def configure_transport(transport: Transport | None) -> None:
    """Use *transport* from now on; `None` goes back to the setting. For tests and scripts."""
    _slot.configure(transport)
