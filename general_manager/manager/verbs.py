"""Mark methods that change data, so that no template can call them."""

from collections.abc import Callable
from typing import Any, TypeVar

Verb = TypeVar("Verb", bound=Callable[..., Any])


def alters_data(verb: Verb) -> Verb:
    """Keep templates from calling *verb*: ``{{ project.delete }}`` renders as nothing."""
    vars(verb)["alters_data"] = True
    return verb
