"""GeneralManager: a business object with one API to create, change and delete it."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, NoReturn, Self

from django.db import router
from django.db.models import Model

from general_manager.atomic import writing_atomic
from general_manager.manager.change import (
    compare,
    created,
    deleted,
    identify,
    read_values,
)
from general_manager.manager.elsewhere import reported_by_manager
from general_manager.manager.interfaces import Interface, ModelException, manager_of
from general_manager.manager.query import ManagerQuery, unwrapped
from general_manager.manager.reporting import report_manager
from general_manager.manager.rows import (
    call_as_written,
    find,
    find_locked,
    needs_save,
    read_again,
    read_updated,
    read_written,
    relate,
    validate,
)
from general_manager.manager.signals import pre_data_change
from general_manager.manager.values import (
    excluded_names,
    identification_of,
    own_fields,
    sort_values,
)
from general_manager.manager.verbs import alters_data


class GeneralManager:
    """One object, identified by its `identification`; its values are loaded on first access.

    ::

        class Project(GeneralManager):
            class Interface(DatabaseInterface):
                name = models.CharField(max_length=200)

        project = Project.create(name="Apollo")
        project.update(name="Artemis")

    `create`, `update` and `delete` each run in one transaction on the model's database, validate
    with the model's `full_clean`, and send `pre_data_change` and `post_data_change` inside it.
    Attributes are read-only: an unreported change could not start a workflow.

    To keep fields out of events, exclude them in the class statement:
    ``class Account(GeneralManager, exclude=("totp_seed",))``. A user model's password is always
    excluded.
    """

    Interface: ClassVar[type[Interface]]
    excluded_fields: ClassVar[frozenset[str]] = frozenset()
    known_managers: ClassVar[list[type["GeneralManager"]]] = []
    DoesNotExist: ClassVar[Any] = ModelException("DoesNotExist")
    MultipleObjectsReturned: ClassVar[Any] = ModelException("MultipleObjectsReturned")

    _key: dict[str, Any]
    _instance: Model | None

    def __init_subclass__(cls, *, exclude: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.excluded_fields |= excluded_names(cls, exclude)
        interface = cls.__dict__.get("Interface")
        if interface is None:
            return
        if not (isinstance(interface, type) and issubclass(interface, Interface)):
            raise TypeError(
                f"{cls.__name__}.Interface must derive from DatabaseInterface or "
                f"ExistingModelInterface, but is {interface!r}"
            )
        interface.attach(cls)
        GeneralManager.known_managers.append(cls)

    def __init__(self, key: Any = None, /, **identification: Any) -> None:
        if key is not None:
            identification = {"pk": key, **identification}
        vars(self)["_key"] = identification_of(self.get_model(), identification)
        vars(self)["_instance"] = None

    @property
    def identification(self) -> dict[str, Any]:
        """The object's primary key as a mapping; the caller gets a copy."""
        return dict(self._key)

    @classmethod
    def get_model(cls) -> type[Model]:
        """The model behind this manager."""
        interface = getattr(cls, "Interface", None)
        if interface is None:
            raise TypeError(f"{cls.__name__} has no Interface: declare a class Interface in it")
        model: type[Model] = interface.get_model()
        return model

    @classmethod
    @alters_data
    def create(
        cls,
        /,
        *,
        creator_id: Any = None,
        history_comment: str | None = None,
        ignore_permission: bool = False,
        **values: Any,
    ) -> Self:
        """Create an object with *values* and report it.

        *creator_id* and *history_comment* go to the signals, and to a model field ``creator_id``.
        Raises `ValidationError`, or `TypeError` for what is no field; then nothing is created.
        """
        model = cls.get_model()
        about = {"creator_id": creator_id, "history_comment": history_comment}
        wanted = sort_values(model, own_fields(model, about) | _plain(values), may_identify=True)
        using = router.db_for_write(model)
        about["using"] = using
        with writing_atomic(using):
            pre_data_change.send(cls, instance=None, action="create", values=values, **about)
            instance = model(**wanted.columns)
            with reported_by_manager(instance, using):
                validate(instance)
                call_as_written(instance.save, using=using, force_insert=True)
                relations = relate(instance, wanted.relations, using)
            stored = read_written(instance, using)
            manager = cls.of(instance if stored is None else stored)
            if stored is not None:  # a receiver may have deleted it: then nothing was created
                new = {name: one.new for name, one in relations.items()}
                report_manager(manager, "create", created(read_values(stored) | new), **about)
        return manager

    @alters_data
    def update(
        self,
        /,
        *,
        creator_id: Any = None,
        history_comment: str | None = None,
        ignore_permission: bool = False,
        **values: Any,
    ) -> Self:
        """Set *values* and report the actual changes; without a change nothing is saved.

        Locks the row if the database supports it. Raises `ValidationError`, the model's
        `DoesNotExist`, or `TypeError` for a name that is not a field; then nothing is changed.
        """
        model = self.get_model()
        about = {"creator_id": creator_id, "history_comment": history_comment}
        wanted = sort_values(model, own_fields(model, about) | _plain(values), may_identify=False)
        using = router.db_for_write(model)
        about["using"] = using
        vars(self)["_instance"] = None
        with writing_atomic(using):
            instance = find_locked(model, self._key, using)
            if pre_data_change.has_listeners(type(self)):
                pre_data_change.send(
                    type(self), instance=self, action="update", values=values, **about
                )
                instance = find_locked(model, self._key, using)  # a receiver may have changed it
            before = read_values(instance)
            vars(self)["_key"] = identify(instance)  # as it is stored, however it was given
            for name, value in wanted.columns.items():
                setattr(instance, name, value)
            with reported_by_manager(instance, using):
                validate(instance)
                if needs_save(instance, before):
                    call_as_written(instance.save, using=using, force_update=True)
                relations = relate(instance, wanted.relations, using)
            self._report(before, read_updated(instance, self._key, using), relations, **about)
        return self

    @alters_data
    def delete(
        self,
        *,
        creator_id: Any = None,
        history_comment: str | None = None,
        ignore_permission: bool = False,
    ) -> None:
        """Delete the row and report it; an update if the model's own `delete` keeps the row.

        Raises the model's `DoesNotExist` if it does not exist.
        """
        model = self.get_model()
        using = router.db_for_write(model)
        about = {"using": using, "creator_id": creator_id, "history_comment": history_comment}
        vars(self)["_instance"] = None
        with writing_atomic(using):
            instance = find_locked(model, self._key, using, to_delete=True)
            if pre_data_change.has_listeners(type(self)):
                pre_data_change.send(type(self), instance=self, action="delete", values={}, **about)
                instance = find_locked(model, self._key, using, to_delete=True)
            old_values = read_values(instance)
            vars(self)["_key"] = identify(instance)
            with reported_by_manager(instance, using):
                call_as_written(instance.delete, using=using)
            self._report(old_values, read_again(instance, using), {}, **about)

    def _report(
        self, before: Mapping[str, Any], stored: Model | None, relations: Any, **about: Any
    ) -> None:
        """Receivers and methods of the model may do more than was asked."""
        if stored is None:
            report_manager(self, "delete", deleted(before), **about)
        else:
            vars(self)["_key"] = identify(stored)
            if changes := compare(before, read_values(stored), type(stored)) | relations:
                report_manager(self, "update", changes, **about)
        vars(self)["_instance"] = stored

    @classmethod
    def all(cls) -> ManagerQuery[Self]:
        return ManagerQuery(cls.of, _instance_of, cls.get_model()._default_manager.all())

    @classmethod
    def filter(cls, /, *conditions: Any, **lookups: Any) -> ManagerQuery[Self]:
        return cls.all().filter(*conditions, **lookups)

    @classmethod
    def exclude(cls, /, *conditions: Any, **lookups: Any) -> ManagerQuery[Self]:
        return cls.all().exclude(*conditions, **lookups)

    @classmethod
    def get(cls, /, *conditions: Any, **lookups: Any) -> Self:
        """The only match. Raises the model's `DoesNotExist` or `MultipleObjectsReturned`."""
        return cls.all().get(*conditions, **lookups)

    @classmethod
    def of(cls, instance: Model) -> Self:
        """The manager of a model *instance* that is already loaded."""
        manager = cls.__new__(cls)
        vars(manager).update(_key=identify(instance), _instance=instance)
        return manager

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_key" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in self._key:
            return self._key[name]
        instance = self._loaded()
        try:
            value = getattr(instance, name)
        except AttributeError as error:
            if error.obj is not instance or error.name != name:
                raise  # the attribute exists; its getter raised for another reason
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None
        if isinstance(value, Model):
            manager = manager_of(type(value))
            if manager is not None and issubclass(manager, GeneralManager):
                return manager.of(value)
        return value

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"{type(self).__name__}.{name} is read-only. Call update({name}=...), "
            "which saves the change and reports it"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneralManager):
            return NotImplemented
        return type(self) is type(other) and self._key == other._key

    def __hash__(self) -> int:
        return hash((type(self), tuple(self._key.items())))

    def __repr__(self) -> str:
        keys = ", ".join(f"{name}={value!r}" for name, value in self._key.items())
        return f"{type(self).__name__}({keys})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(type(self), **self._key), ())

    def _loaded(self) -> Model:
        if self._instance is None:
            model = self.get_model()
            found = vars(self)["_instance"] = find(model, self._key, router.db_for_read(model))
            return found
        return self._instance


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """*values* with model instances in place of managers."""
    return {name: _instance_of(value) for name, value in values.items()}


def _instance_of(value: Any) -> Any:
    if isinstance(value, GeneralManager):
        return value._loaded()  # noqa: SLF001 - a class of this module
    return unwrapped(value, _instance_of)
