"""How a kind of model is made twice, with the same body: `Kind.plain`, and `Kind.tracked`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from django.db import models

from general_manager import track_changes

Body = Callable[[], dict[str, Any]]
numbers = count(1)


@dataclass
class Kind:
    name: str
    plain: Any
    tracked: Any
    new: Body
    """Values of a new row."""
    change: Body
    """Values that an update changes."""
    reported: list[str]
    """Names of the events' managers, in order."""
    of_update: list[str]
    unread: set[str] = field(default_factory=set)


KINDS: dict[str, Kind] = {}


def text() -> dict[str, Any]:
    return {"name": models.CharField(max_length=50, default="a")}


def model(name: str, body: dict[str, Any], *bases: Any, **meta: Any) -> Any:
    options = type("Meta", (), {"app_label": "rowapp", **meta})
    return type(name, bases or (models.Model,), {"__module__": __name__, "Meta": options, **body})


def kind(
    name: str,
    body: Body,
    *,
    new: Body = dict,
    change: Body = lambda: {"name": "b"},
    bases: Callable[[str], tuple[Any, ...]] = lambda prefix: (),
    meta: Callable[[str], dict[str, Any]] = lambda prefix: {},
    reported: list[str] | None = None,
    of_update: list[str] | None = None,
    unread: set[str] | None = None,
) -> Kind:
    plain = model(f"Plain{name}", body(), *bases("Plain"), **meta("Plain"))
    tracked = track_changes(model(f"Tracked{name}", body(), *bases("Tracked"), **meta("Tracked")))
    names = reported or [f"Tracked{name}"]
    made = Kind(name, plain, tracked, new, change, names, of_update or names, unread or set())
    KINDS[name] = made
    return made
