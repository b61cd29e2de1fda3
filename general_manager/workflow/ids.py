"""What an id may look like: one rule for events, workflows, keys and names."""

from typing import Final

MAX_ID_LENGTH: Final = 255
"""Characters: what an indexed text column holds on every supported database."""


def require_id(argument: str, value: object) -> None:
    """Refuse what an indexed column could not hold, at the call and not in the middle of SQL.

    Raises `TypeError` or `ValueError` that name *argument*.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be text, not {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must not be empty")
    if len(value) > MAX_ID_LENGTH:
        raise ValueError(
            f"{argument} has {len(value)} characters, and {MAX_ID_LENGTH} fit: {value[:40]!r}..."
        )
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{argument} must not contain an unpaired surrogate: {value!r}")
    if "\x00" in value:
        raise ValueError(f"{argument} must not contain a NUL character: {value!r}")
