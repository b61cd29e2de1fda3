"""Delays that differ a little, so that what failed together does not come again together."""

from datetime import timedelta
from random import uniform
from typing import TypeVar

Delay = TypeVar("Delay", float, timedelta)


def spread(delay: Delay, lowest: float, highest: float) -> Delay:
    """*delay* times a random factor from *lowest* to *highest*."""
    return delay * uniform(lowest, highest)  # noqa: S311 - it spreads, and keeps no secret
