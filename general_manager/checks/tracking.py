"""The event names of managers and tracked models, and the fields they exclude."""

from collections import defaultdict
from typing import Any

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from general_manager.check_messages import warning
from general_manager.manager import GeneralManager
from general_manager.manager.trackers import trackers


def check_names(**_: Any) -> list[CheckMessage]:
    """W024: handlers rely on the name, so one name must mean one model."""
    models: dict[str, set[type[Model]]] = defaultdict(set)
    for model, tracker in trackers.items():
        models[tracker.name].add(model)
    for manager, model in _managers():
        models[manager.__name__].add(model)
    return [
        warning(
            "W024",
            f"{', '.join(sorted(one._meta.label for one in found))} emit events under the same "
            f"name, {name}.",
            "Give each its own name: track_changes(Line, name='OrderLine'), or rename the manager. "
            "Until then handlers can check the event's metadata['model'].",
        )
        for name, found in sorted(models.items())
        if len(found) > 1
    ]


def check_excluded(**_: Any) -> list[CheckMessage]:
    """W025: the fields that a manager excludes must exist."""
    return [
        warning(
            "W025",
            f"{manager.__name__} excludes {name!r} from its events, but {model._meta.label} has no "
            "such field.",
            "Correct the name. A field that does not match is not excluded.",
        )
        for manager, model in _managers()
        for name in sorted(manager.excluded_fields - _names_of_fields(model))
    ]


def _names_of_fields(model: type[Model]) -> set[str]:
    return {one.name for one in (*model._meta.concrete_fields, *model._meta.many_to_many)}


def _managers() -> list[tuple[type[GeneralManager], type[Model]]]:
    found = []
    for manager in GeneralManager.known_managers:
        try:
            model = manager.get_model()
        except ImproperlyConfigured:
            continue  # E006 reports it
        found.append((manager, model._meta.concrete_model or model))
    return found
