"""What the admin pages need from the project."""

from typing import Any, Final

from django.apps import apps
from django.core.checks import CheckMessage
from django.template import engines
from django.template.backends.django import DjangoTemplates

from general_manager.check_messages import warning

REQUEST: Final = "django.template.context_processors.request"


def check_admin(**_: Any) -> list[CheckMessage]:
    """W012: the admin's templates need the request."""
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
            f"The admin is installed, but TEMPLATES lacks the context processor {REQUEST}.",
            "Add it to context_processors in OPTIONS. Without it the admin's navigation cannot "
            "mark the current page.",
        )
    ]
