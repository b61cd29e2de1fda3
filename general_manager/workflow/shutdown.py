"""Whether this worker is shutting down: a flag that its processes share, read at no cost.

Celery tells the main process alone. The children of a prefork pool see what it writes here, for
they were forked from it and share the page of memory.
"""

from mmap import mmap
from typing import Final

_flag: Final = mmap(-1, 1)


def announce() -> None:
    """This worker takes no new work from now on."""
    _flag[0] = 1


def retract() -> None:
    """A worker starts, perhaps in a process where another one ended."""
    _flag[0] = 0


def is_announced() -> bool:
    return _flag[0] == 1
