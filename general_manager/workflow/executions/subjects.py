"""The subject of an execution: the business object that it is about, as text.

The text is that of events, such as ``Invoice 7``, so that both are found by it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import apps
from django.db.models import Model

from general_manager.manager import GeneralManager
from general_manager.workflow.core.actors import current_subject
from general_manager.workflow.core.encoding import encode
from general_manager.workflow.core.ids import require_id
from general_manager.workflow.events import subject_of, subjects_in


def subject_at_start(subject: object) -> str | None:
    """What `start` stores: *subject*, or by default that of the event whose handler runs here."""
    return current_subject() if subject is None else subject_text(subject)


def subject_text(subject: object) -> str:
    """A model instance, a manager or a text as the subject of an execution.

    Raises `TypeError` or `ValueError` that says what is wrong.
    """
    if isinstance(subject, str):
        require_id("subject", subject)
        return subject.strip()
    name, identification = _parts_of(subject)
    text = subject_of({"manager": name, "identification": encode(identification, root="subject")})
    if text is None:
        raise ValueError(f"subject must be a saved object, but {subject!r} has no key")
    return text


def subjects_of(subject: object) -> set[str]:
    """Every text under which executions may be about *subject*: managers have own names."""
    if isinstance(subject, str):
        return {subject.strip(), *subjects_in(subject.strip())}
    found = {subject_text(subject)}
    _, identification = _parts_of(subject)
    model = type(subject) if isinstance(subject, Model) else model_of(type(subject).__name__)
    for name in names_of(model) if model is not None else ():
        keys = {"manager": name, "identification": encode(identification, root="subject")}
        found.add(subject_of(keys) or name)
    return found


def _parts_of(subject: object) -> tuple[str, Mapping[str, Any]]:
    """The name and the key of an object, as its events have them."""
    if isinstance(subject, GeneralManager):
        return type(subject).__name__, subject.identification
    if isinstance(subject, Model):
        keys: Any = subject._meta.pk_fields
        values = {one.attname: getattr(subject, one.attname) for one in keys}
        if None in values.values():
            raise ValueError(f"subject must be a saved object, but {subject!r} has no key")
        return _name_of(type(subject)), values
    raise TypeError(f"subject must be a model instance, a manager or text, not {subject!r}")


def _name_of(model: type[Model]) -> str:
    """The class's name, or ``app.Model`` if another app has a model of that name."""
    concrete: Any = model._meta.concrete_model
    is_unique = model_of(concrete.__name__) is concrete
    return str(concrete.__name__ if is_unique else concrete._meta.label)


def names_of(model: type[Model]) -> list[str]:
    """The names that stand for *model* in subjects: its own, and those of its managers."""
    concrete: Any = model._meta.concrete_model
    managers = [one.__name__ for one in _managers(GeneralManager) if _wrapped(one) is concrete]
    others = [one for one in managers if one != concrete.__name__ and model_of(one) is concrete]
    return [_name_of(concrete), *dict.fromkeys(others)]


def model_of(name: str) -> Any:
    """The model of a manager or a model with that name; `None` if there is none, or several."""
    for one in _managers(GeneralManager):
        if one.__name__ == name and (model := _wrapped(one)) is not None:
            return model
    if "." in name:
        named = [one for one in apps.get_models() if one._meta.label == name]
    else:
        named = [one for one in apps.get_models() if one.__name__ == name]
    return named[0] if len(named) == 1 else None


def _wrapped(manager: type) -> Any:
    """The concrete model that a manager stands for, or `None`."""
    model: Any = getattr(getattr(manager, "Interface", None), "model", None)
    if isinstance(model, str):
        model = apps.get_model(model)
    return None if model is None else model._meta.concrete_model


def _managers(base: type) -> Iterator[type]:
    below: list[type] = base.__subclasses__()
    for one in below:
        yield one
        yield from _managers(one)
