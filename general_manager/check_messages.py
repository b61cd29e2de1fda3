"""The form of our check messages: an id with our prefix, a sentence, a hint."""

from django.core.checks import CheckMessage, Warning

from general_manager.names import APP_LABEL


def warning(check_id: str, message: str, hint: str) -> CheckMessage:
    return Warning(message, hint=hint, id=f"{APP_LABEL}.{check_id}")
