"""Where a manager's values are stored: in a model that it declares, or in an existing one."""

from copy import deepcopy
from types import CellType
from typing import Any, ClassVar, cast

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import models

from general_manager.manager.rebinding import Rebinding


class Interface:
    """Connects a manager with its model; use one of the subclasses."""

    model: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, models.Model):  # before Django registers it as a model of its own
            bases = ", ".join(
                one.__name__ for one in cls.__bases__ if issubclass(one, models.Model)
            )
            raise TypeError(
                f"{cls.__qualname__} cannot derive from {', '.join(bases)}. Write a model "
                "that does, and name it in an ExistingModelInterface."
            )

    @classmethod
    def attach(cls, manager: type) -> None:
        """Called once, when the class *manager* with this interface is created."""
        raise TypeError(
            f"{manager.__name__}.Interface must derive from DatabaseInterface or "
            "ExistingModelInterface"
        )

    @classmethod
    def get_model(cls) -> type[models.Model]:
        raise TypeError(f"{cls.__qualname__} has no model")


class DatabaseInterface(Interface):
    """Declares the model: fields, `Meta`, methods and constraints, as in a Django model.

    The model gets the manager's name and belongs to the app whose module the manager is in, so
    define the manager in that app's ``models.py`` or a module it imports; ``makemigrations`` then
    finds it as usual. The model is available as ``Project.Interface.model``.
    """

    @classmethod
    def attach(cls, manager: type) -> None:
        attributes: dict[str, Any] = {}
        model_cell = CellType()
        written_in = cls.__mro__[: cls.__mro__.index(DatabaseInterface)]
        rebound = Rebinding(model_cell, written_in)
        for base in reversed(written_in):
            inherited = base is not cls
            for name, value in vars(base).items():
                if name not in _OWN_ATTRIBUTES:
                    own = deepcopy(value) if inherited else value
                    attributes[name] = rebound(own)
        for option in ("abstract", "proxy"):
            if getattr(attributes.get("Meta"), option, False):
                raise TypeError(
                    f"{manager.__name__}.Interface.Meta.{option} leaves the manager without a "
                    "table. To share fields, use a class that derives from "
                    "DatabaseInterface; to wrap an existing model, use ExistingModelInterface."
                )
        attributes |= {
            "__module__": manager.__module__,
            # Pickle must find the model here: the manager takes the model's own name.
            "__qualname__": f"{manager.__qualname__}.Interface.model",
            "__doc__": cls.__doc__ if cls.__dict__.get("__doc__") else manager.__doc__,
        }
        model = type(manager.__name__, (models.Model,), attributes)
        _managers[model] = manager
        model_cell.cell_contents = model
        cls.model = model

    @classmethod
    def get_model(cls) -> type[models.Model]:
        return cast(type[models.Model], cls.model)


class ExistingModelInterface(Interface):
    """Wraps an existing model: ``model = "billing.Invoice"``, or the class."""

    @classmethod
    def attach(cls, manager: type) -> None:
        model = getattr(cls, "model", None)
        is_label = isinstance(model, str) and len([part for part in model.split(".") if part]) == 2
        is_model = isinstance(model, type) and issubclass(model, models.Model)
        if not (is_label or is_model):
            raise TypeError(
                f'{manager.__name__}.Interface.model must be a model or "app_label.ModelName", '
                f"not {model!r}"
            )

    @classmethod
    def get_model(cls) -> type[models.Model]:
        """The model. Raises `ImproperlyConfigured` if no installed app has it."""
        if isinstance(cls.model, str):
            try:
                cls.model = apps.get_model(cls.model)
            except LookupError as error:
                raise ImproperlyConfigured(
                    f"{cls.__qualname__}.model names {cls.model!r}: {error}"
                ) from error
        return cast(type[models.Model], cls.model)


class ModelException:
    """A class attribute of a manager: its model's exception class of that *name*."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: Any) -> Any:
        return getattr(owner.get_model(), self._name)


def manager_of(model: type[models.Model]) -> type | None:
    """The manager that declares *model*, or `None`."""
    return _managers.get(model)


_managers: dict[type[models.Model], type] = {}

_OWN_ATTRIBUTES = frozenset(
    {
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__static_attributes__",
        "__weakref__",
    }
)
