"""What unwinds a handler that must not continue."""

from datetime import datetime

from general_manager.workflow.durable.ending import Ending


class StopRun(BaseException):
    """Unwinds a handler that must not continue. ``except Exception`` does not catch it."""


class Suspended(StopRun):
    """The handler waits: for *name*, until *until* at the latest."""

    def __init__(self, name: str, until: datetime | None, *, answerable: bool) -> None:
        super().__init__(name, until)
        self.name = name
        self.until = until
        self.answerable = answerable


class WaitsForChildren(StopRun):
    """The handler waits for the children of gather *name*, until *until* at the latest."""

    def __init__(self, name: str, until: datetime | None) -> None:
        super().__init__(name, until)
        self.name = name
        self.until = until


class Retrying(StopRun):
    """Step *name* waits for its next attempt; the store has given up the execution until then."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Interrupted(StopRun):
    """The database failed a checkpoint or rolled a step back: not the handler's failure."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class AttemptFailed(StopRun):
    """An exception left a saga, and another attempt of the execution follows: nothing is undone."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class RunAgain(StopRun):
    """A saga is still open, and the execution is to end: the next run knows it from the start."""


class Ended(StopRun):
    """Everything is undone: the execution ends as it was asked to."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending


class EndRequested(BaseException):
    """Raised by the store: the execution is to undo and to end."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending
