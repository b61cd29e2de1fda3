"""Which time Django's apps are being populated: tests that change INSTALLED_APPS do it again.

Then every `ready()` runs once more, and makes its lambdas and bound methods anew.
"""

from functools import partial
from typing import Any

from django.apps import apps


def current_population() -> object | None:
    """What stands for the population under way, and `None` when there is none."""
    return None if apps.ready else apps.app_configs


def code_of(function: Any) -> object:
    """What two functions have in common that were made by the same place in the source."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", type(function))
