"""How our checks speak: an id with our prefix, a sentence, a hint."""

from typing import Final

from django.core.checks import CheckMessage, Warning

PREFIX: Final = "general_manager"


def warning(check_id: str, message: str, hint: str) -> CheckMessage:
    return Warning(message, hint=hint, id=f"{PREFIX}.{check_id}")
