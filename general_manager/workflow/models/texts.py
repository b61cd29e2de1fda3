"""Store foreign text, such as error messages, in databases that refuse some characters."""

from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, transaction

T = TypeVar("T")


def write_texts(using: str, write: Callable[..., T], *texts: str) -> T:
    """Call *write* with *texts*; if the database refuses them, again with their ASCII form.

    Our columns accept all text, but a connection or a database with another character set may not:
    then escapes replace the letters. The text of an error must never keep an outcome from being
    stored.
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
