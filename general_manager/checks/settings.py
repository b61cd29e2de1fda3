"""The settings' keys and values, and the models that managers name."""

from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from general_manager.conf import find_problems
from general_manager.manager import GeneralManager
from general_manager.names import APP_LABEL


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001 to E003 and W001: the keys and values of `GENERAL_MANAGER`."""
    return [
        (Error if problem.is_error else Warning)(
            problem.message, hint=problem.hint, id=f"{APP_LABEL}.{problem.id}"
        )
        for problem in find_problems()
    ]


def check_managers(**_: Any) -> list[CheckMessage]:
    """E006: every manager's model exists."""
    messages: list[CheckMessage] = []
    for manager in GeneralManager.known_managers:
        try:
            manager.get_model()
        except ImproperlyConfigured as error:
            messages.append(
                Error(
                    str(error),
                    hint='Write "app_label.ModelName" of a model in an installed app.',
                    obj=manager,
                    id=f"{APP_LABEL}.E006",
                )
            )
    return messages
