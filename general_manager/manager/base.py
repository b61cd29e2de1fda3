"""GeneralManager: a business object that is created, changed and deleted through one door."""

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, Self

from django.db import router, transaction
from django.db.models import Model

from general_manager.manager.change import (
    Action,
    DataChange,
    FieldChange,
    compare,
    identify,
    read_values,
    value_fields,
)
from general_manager.manager.interfaces import Interface, manager_of
from general_manager.manager.query import ManagerQuery
from general_manager.manager.rows import refresh_computed, relate, validate
from general_manager.manager.signals import post_data_change, pre_data_change
from general_manager.manager.values import identification_of, sort_values


class GeneralManager:
    """One object, known by its `identification`; its values are read when they are first asked for.

    ::

        class Project(GeneralManager):
            class Interface(DatabaseInterface):
                name = models.CharField(max_length=200)

        project = Project.create(name="Apollo")
        project.update(name="Artemis")

    `create`, `update` and `delete` each run in one transaction on the model's database, validate
    with the model's `full_clean`, and send `pre_data_change` and `post_data_change` inside it.
    Attributes are read-only: what is not told cannot start a workflow.
    """

    Interface: ClassVar[type[Interface]]
    known_managers: ClassVar[list[type["GeneralManager"]]] = []

    _instance: Model | None
    identification: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        interface = cls.__dict__.get("Interface")
        if interface is None:
            return
        if not (isinstance(interface, type) and issubclass(interface, Interface)):
            raise TypeError(
                f"{cls.__name__}.Interface must derive from DatabaseInterface or "
                f"ExistingModelInterface, not be {interface!r}"
            )
        interface.attach(cls)
        GeneralManager.known_managers.append(cls)

    def __init__(self, key: Any = None, /, **identification: Any) -> None:
        if key is not None:
            identification = {"pk": key, **identification}
        vars(self)["identification"] = identification_of(self.get_model(), identification)
        vars(self)["_instance"] = None

    @classmethod
    def get_model(cls) -> type[Model]:
        """The model behind this manager."""
        interface = getattr(cls, "Interface", None)
        if interface is None:
            raise TypeError(f"{cls.__name__} has no Interface, so it has no values")
        model: type[Model] = interface.get_model()
        return model

    @classmethod
    def create(
        cls,
        *,
        creator_id: Any = None,
        history_comment: str | None = None,
        ignore_permission: bool = False,  # noqa: ARG003 - GeneralManager code passes it
        **values: Any,
    ) -> Self:
        """Make a new object of *values* and tell of it.

        *creator_id* and *history_comment* go to the signals; a model field ``creator_id`` is set
        too. Raises `ValidationError`, or `TypeError` for a name that is no field, with nothing
        made.
        """
        model = cls.get_model()
        if creator_id is not None and any(f.attname == "creator_id" for f in value_fields(model)):
            values.setdefault("creator_id", creator_id)
        wanted = sort_values(model, _plain(values), may_identify=True)
        using = router.db_for_write(model)
        with transaction.atomic(using=using):
            about = {"using": using, "creator_id": creator_id, "history_comment": history_comment}
            pre_data_change.send(cls, instance=None, action="create", values=values, **about)
            instance = _told_here(model(**wanted.columns))
            validate(instance)
            instance.save(using=using, force_insert=True)
            relations = relate(instance, wanted.relations)
            refresh_computed(instance, using)
            manager = cls.of(instance)
            after = {**read_values(instance), **{name: one.new for name, one in relations.items()}}
            changes = {name: FieldChange(None, value) for name, value in after.items()}
            manager._tell("create", changes, **about)  # noqa: SLF001 - an instance of this class
        del instance.change_is_told
        return manager

    def update(
        self,
        *,
        creator_id: Any = None,
        history_comment: str | None = None,
        ignore_permission: bool = False,  # noqa: ARG002 - GeneralManager code passes it
        **values: Any,
    ) -> Self:
        """Set *values*, and tell what really changed; nothing is told or saved if nothing did.

        The row is locked while it is compared, where the database can. Raises `ValidationError`,
        the model's `DoesNotExist`, or `TypeError` for a name that is no field, with nothing
        changed.
        """
        model = self.get_model()
        wanted = sort_values(model, _plain(values), may_identify=False)
        using = router.db_for_write(model)
        with transaction.atomic(using=using):
            instance = self._locked(using)
            before = read_values(instance)
            about = {"using": using, "creator_id": creator_id, "history_comment": history_comment}
            pre_data_change.send(type(self), instance=self, action="update", values=values, **about)
            for name, value in wanted.columns.items():
                setattr(instance, name, value)
            validate(instance)
            if compare(before, read_values(instance)):
                instance.save(using=using, force_update=True)
                refresh_computed(instance, using)
            changes = compare(before, read_values(instance)) | relate(instance, wanted.relations)
            vars(self)["_instance"] = instance
            if changes:
                self._tell("update", changes, **about)
        del instance.change_is_told
        return self

    def delete(
        self,
        *,
        creator_id: Any = None,
        history_comment: str | None = None,
        ignore_permission: bool = False,  # noqa: ARG002 - GeneralManager code passes it
    ) -> None:
        """Delete the row and tell of it. Raises the model's `DoesNotExist` if it is gone."""
        using = router.db_for_write(self.get_model())
        with transaction.atomic(using=using):
            instance = self._locked(using)
            about = {"using": using, "creator_id": creator_id, "history_comment": history_comment}
            pre_data_change.send(type(self), instance=self, action="delete", values={}, **about)
            old_values = read_values(instance)
            instance.delete(using=using)
            changes = {name: FieldChange(value, None) for name, value in old_values.items()}
            vars(self)["_instance"] = None
            self._tell("delete", changes, **about)

    @classmethod
    def all(cls) -> ManagerQuery[Self]:
        return ManagerQuery(cls.of, cls.get_model()._default_manager.all())

    @classmethod
    def filter(cls, *conditions: Any, **lookups: Any) -> ManagerQuery[Self]:
        return cls.all().filter(*conditions, **lookups)

    @classmethod
    def exclude(cls, *conditions: Any, **lookups: Any) -> ManagerQuery[Self]:
        return cls.all().exclude(*conditions, **lookups)

    @classmethod
    def get(cls, *conditions: Any, **lookups: Any) -> Self:
        """The one object that matches.

        Raises the model's `DoesNotExist` or `MultipleObjectsReturned`.
        """
        return cls.all().get(*conditions, **lookups)

    @classmethod
    def of(cls, instance: Model) -> Self:
        """The manager of a model *instance* that is at hand."""
        manager = cls.__new__(cls)
        vars(manager).update(identification=identify(instance), _instance=instance)
        return manager

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "identification" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in self.identification:
            return self.identification[name]
        try:
            value = getattr(self._loaded(), name)
        except AttributeError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None
        if isinstance(value, Model):
            manager = manager_of(type(value))
            if manager is not None and issubclass(manager, GeneralManager):
                return manager.of(value)
        return value

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"{type(self).__name__}.{name} is read-only: call update({name}=...), "
            "which saves the change and tells of it"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneralManager):
            return NotImplemented
        return type(self) is type(other) and self.identification == other.identification

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.identification.items())))

    def __repr__(self) -> str:
        keys = ", ".join(f"{name}={value!r}" for name, value in self.identification.items())
        return f"{type(self).__name__}({keys})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (type(self), self.identification))

    def _loaded(self) -> Model:
        if self._instance is None:
            found = self.get_model()._base_manager.get(**self.identification)
            vars(self)["_instance"] = found
            return found
        return self._instance

    def _locked(self, using: str) -> Any:
        rows = self.get_model()._base_manager.using(using)
        return _told_here(rows.select_for_update().get(**self.identification))

    def _tell(self, action: Action, changes: Mapping[str, FieldChange], **about: Any) -> None:
        change = DataChange(
            action, type(self).__name__, self.identification, changes=changes, **about
        )
        post_data_change.send(type(self), instance=self, action=action, change=change, **about)


def _told_here(instance: Model) -> Any:
    """Mark *instance*: its manager tells of its changes, `track_changes` need not."""
    marked: Any = instance
    marked.change_is_told = True
    return marked


def _restore(manager: type[GeneralManager], identification: dict[str, Any]) -> GeneralManager:
    return manager(**identification)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """*values* with model instances in place of managers."""
    return {name: _instance_of(value) for name, value in values.items()}


def _instance_of(value: Any) -> Any:
    if isinstance(value, GeneralManager):
        return value._loaded()  # noqa: SLF001 - this module's own class
    if isinstance(value, list | tuple | ManagerQuery):
        return [_instance_of(item) for item in value]
    return value
