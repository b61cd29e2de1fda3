"""A bank, as its client would look: it knows each transfer by the key that its caller chose.

Asking twice for the same key moves the money once, so both calls are safe to repeat.
"""

from decimal import Decimal
from threading import Lock

_transfers: dict[str, Decimal] = {}
_lock = Lock()


def transfer(key: str, amount: Decimal) -> str:
    with _lock:
        _transfers.setdefault(key, amount)
    return f"{amount} transferred as {key!r}"


def pay_back_if_transferred(key: str) -> str:
    """Pay back what was transferred under *key*, and nothing if nothing was."""
    with _lock:
        amount = _transfers.pop(key, None)
    return "nothing to pay back" if amount is None else f"{amount} paid back"
