"""What the admin's pages need from the project."""

from typing import Any, Final

from django.apps import apps
from django.core.checks import CheckMessage
from django.template import engines
from django.template.backends.django import DjangoTemplates

from general_manager.checks.messages import warning

REQUEST: Final = "django.template.context_processors.request"


def check_admin(**_: Any) -> list[CheckMessage]:
    """W012: the admin's templates know the request."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    if all(
        REQUEST in one.engine.context_processors
        for one in engines.all()
        if isinstance(one, DjangoTemplates)
    ):
        return []
    return [
        warning(
            "W012",
            f"The admin is installed, and TEMPLATES lacks {REQUEST}.",
            "Add it to the context_processors in OPTIONS: the admin's navigation cannot show "
            "where an operator is without it.",
        )
    ]
