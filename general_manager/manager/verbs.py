"""What every method that changes data has in common: no template may call it."""

from collections.abc import Callable
from typing import Any, TypeVar

Verb = TypeVar("Verb", bound=Callable[..., Any])


def alters_data(verb: Verb) -> Verb:
    """Keep templates from calling *verb*: ``{{ project.delete }}`` shows nothing instead."""
    vars(verb)["alters_data"] = True
    return verb
