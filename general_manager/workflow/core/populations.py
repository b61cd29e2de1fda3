"""Tracks repeated populations of Django's apps, as in tests that change INSTALLED_APPS.

Each time every `ready()` runs again and creates new lambdas and bound methods.
"""

from functools import partial
from typing import Any

from django.apps import apps


def current_population() -> object | None:
    """A token for the current population, or `None`."""
    return None if apps.ready else apps.app_configs


def code_of(function: Any) -> object:
    """A value that is equal for functions created at the same place in the source."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", type(function))
