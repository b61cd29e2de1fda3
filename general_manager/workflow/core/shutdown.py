"""Whether this worker is shutting down: a flag shared by its processes, read at no cost.

Celery notifies only the main process. The children of a prefork pool see the flag because they are
forked from it and share the page of memory.
"""

from mmap import mmap
from typing import Final

_flag: Final = mmap(-1, 1)


def announce() -> None:
    """Announce that this worker takes no new work from now on."""
    _flag[0] = 1


def retract() -> None:
    """Reset the flag: a worker starts, perhaps in a process in which another one ended."""
    _flag[0] = 0


def is_announced() -> bool:
    return _flag[0] == 1
