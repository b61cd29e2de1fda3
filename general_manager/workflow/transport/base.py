"""The interface of transports, which carry messages to workers.

A message is only a nudge: the row is authoritative.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, Self

from django.core.checks import CheckMessage

PREFIX: Final = "general_manager.workflow.tasks"
WORK: Final = f"{PREFIX}.work"
TICK: Final = f"{PREFIX}.beat_tick"


class Transport(ABC):
    """The base class of what `WORKFLOW_TRANSPORT` names.

    A task name is the dotted path of a function in `tasks`; the process that receives the message
    calls it with the message's arguments. A lost message loses no work, because the next tick finds
    the rows, and a repeated message does no work twice. A transport without Celery's Beat must also
    call `tasks.beat_tick` every few seconds.
    """

    supports_celery: ClassVar[bool] = False
    """Whether workers and Beat are Celery's, so that Celery's settings are checked."""

    @abstractmethod
    def send(self, task: str, arguments: list[Any], *, queue: str = "") -> bool:
        """Have *task* called with *arguments* (JSON) in another thread or process.

        *queue* names the workers that may do it; empty for the project's own routing.
        False if the message cannot be accepted now. Must neither raise nor block for long: it is
        called after a request's commit.
        """

    def here(self) -> Self:
        """This transport for other threads; what depends on the caller's thread is fixed."""
        return self

    def runs_at_once(self) -> bool:
        """Whether `send` itself does the work, as projects configure it in tests."""
        return False

    def check(self) -> list[CheckMessage]:
        """The messages of `manage.py check` about this transport."""
        return []
