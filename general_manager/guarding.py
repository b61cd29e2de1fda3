"""Calls project code and drivers whose errors must not stop the caller."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(call: Callable[[], T], otherwise: T) -> T:
    """Return what *call* returns, or *otherwise* if it raises an `Exception`."""
    try:
        return call()
    except Exception:  # noqa: BLE001 - user code and drivers raise anything
        return otherwise
