"""How long a message may take, and what a suspended run waits for."""

from datetime import datetime, timedelta
from typing import Protocol

MESSAGE_GRACE = timedelta(seconds=10)
RESEND_GRACE = timedelta(seconds=60)
"""An execution whose message, the first or a later one, has led to no run by then is sent again."""


class Stop(Protocol):
    """Why a run suspends: for what, until when, and whether somebody may answer."""

    name: str
    until: datetime | None
    answerable: bool
