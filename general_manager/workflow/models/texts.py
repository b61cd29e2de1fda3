"""Texts that others wrote, on databases that do not take every text."""

from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, transaction

T = TypeVar("T")


def write_texts(using: str, write: Callable[..., T], *texts: str) -> T:
    """Call *write* with *texts*; if the database refuses them, once more with ASCII in their place.

    Our columns take every text, but a connection in another character set, or a database that was
    made with one, may not: then code points stand for letters. No text of an error may keep a row
    from its end.
    """
    if all(text.isascii() for text in texts):
        return write(*texts)
    try:
        with transaction.atomic(using=using):
            return write(*texts)
    except (DatabaseError, UnicodeError):
        return write(*(in_ascii(text) for text in texts))


def in_ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
