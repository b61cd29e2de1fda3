"""What a manager makes of models with managers, methods and files of their own."""

from contextlib import contextmanager
from functools import cache, cached_property, lru_cache, wraps
from typing import Any

import pytest
from django.apps import apps
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage
from django.db import connection, models, transaction
from django.template import Context, Template
from django.test import override_settings

from general_manager import GeneralManager
from general_manager.interface import DatabaseInterface, ExistingModelInterface
from tests.rowapp.kinds import KINDS, Kind
from tests.rowapp.models import Base, loudly
from tests.rowapp.reported import brief, reported
from tests.testapp.models import Person, Project, Tag

pytestmark = pytest.mark.django_db(databases=["default", "archive"])


def desk_of(kind: str | Kind, **options: Any) -> Any:
    """A manager of the plain model of that kind."""
    kind = KINDS[kind] if isinstance(kind, str) else kind
    interface = type("Interface", (ExistingModelInterface,), {"model": kind.plain})
    made = type(f"{kind.name}Desk", (GeneralManager,), {"Interface": interface}, **options)
    GeneralManager.known_managers.remove(made)
    return made


@contextmanager
def forgotten(*names: str) -> Any:
    """Models and managers that a test declares are gone after it."""
    known = list(GeneralManager.known_managers)
    try:
        yield
    finally:
        GeneralManager.known_managers[:] = known
        for name in names:
            apps.all_models["testapp"].pop(name, None)
        apps.clear_cache()


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"OneWayKey", "Stored"}))
def test_a_manager_of_every_kind_reports_each_change_once(name):
    kind = KINDS[name]
    desk = desk_of(name)
    with reported() as changes:
        made = desk.create(**kind.new())
        made.update(**kind.change())
        made.delete()
    actions = ["create", "update", "delete"] if kind.of_update else ["create", "delete"]
    assert brief(changes) == [(action, f"{name}Desk") for action in actions]
    assert {str(one.identification) for one in changes} == {str(changes[0].identification)}
    # Those are reported in other words.
    if name not in {
        "Counted",
        "Range",
        "Json",
        "Pictured",
        "Translated",
        "Vector",
        "Placed",
        "Versioned",
    }:
        assert {key: one.new for key, one in changes[1].changes.items() if key != "shout"} == dict(
            kind.change()
        )


def test_a_row_that_the_models_manager_hides_can_be_changed_and_read():
    desk = desk_of("Hidden")
    row = desk.create(name="a")
    with reported() as changes:
        row.update(name="b")
    assert row.name == "b"
    assert dict(changes[0].changes) == {"name": ("a", "b")}
    assert desk(id=row.id).name == "b"
    desk(id=row.id).delete()
    assert KINDS["Hidden"].plain.objects.count() == 0


def test_a_deferred_column_that_changes_is_reported():
    row = desk_of("Deferred").create(name="a")
    with reported() as changes:
        row.update(name="b")
    assert dict(changes[0].changes) == {"name": ("a", "b")}


class TagsOnAReplica:
    """Reads many-to-many relations where there are not even tables for them."""

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        return "archive" if model is Tag or model._meta.auto_created else None


def test_many_to_many_changes_are_read_where_they_are_written():
    tags = [Tag.objects.create(name=name) for name in "ab"]
    path = f"{__name__}.TagsOnAReplica"
    with override_settings(DATABASE_ROUTERS=[TagsOnAReplica()]), reported() as changes:
        assert path
        project = Project.create(name="Apollo", tags=[tags[0].pk])
        project.update(tags=[tags[1].pk])
    assert changes[1].changes["tags"] == ([tags[0].pk], [tags[1].pk])


class OneName(InMemoryStorage):
    """Gives a file the name that it is given, over the one that is there."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        self.delete(name)
        return name


def test_a_new_file_of_the_stored_ones_name_is_saved():
    kind = KINDS["Stored"].plain
    field = kind._meta.get_field("file")
    storage, field.storage = field.storage, OneName()
    try:
        desk = desk_of("Stored").create(file=ContentFile(b"old", name="a.txt"))
        with reported() as changes:
            desk.update(file=ContentFile(b"new", name="a.txt"))
        assert field.storage.open("a.txt").read() == b"new"
        assert changes == []  # the row is what it was
        desk.update(file=ContentFile(b"other", name="b.txt"))
        assert kind.objects.get().file.name == "b.txt"
    finally:
        field.storage = storage


def test_an_update_that_changes_no_value_saves_nothing():
    class Counting:
        count = 0

    def note(**_):
        Counting.count += 1

    for name in ("Vector", "Json", "Translated", "Encrypted"):
        kind = KINDS[name]
        row = desk_of(name).create(**kind.new())
        models.signals.post_save.connect(note, sender=kind.plain)
        try:
            row.update(**kind.new())
        finally:
            models.signals.post_save.disconnect(note, sender=kind.plain)
    assert Counting.count == 0


@pytest.mark.django_db(transaction=True, databases=["default", "archive"])
def test_a_model_whose_save_and_delete_take_no_arguments_has_a_manager():
    class Quiet(GeneralManager):
        class Interface(DatabaseInterface):
            name = models.CharField(max_length=10)

            class Meta:
                app_label = "testapp"

            def save(self: Any) -> None:
                self.name = self.name.strip()
                super().save()  # type: ignore[misc]

            def delete(self: Any) -> Any:
                return super().delete()  # type: ignore[misc]

    model = Quiet.Interface.model
    with forgotten("quiet"), reported() as changes:
        with connection.schema_editor() as editor:
            editor.create_model(model)
        try:
            one = Quiet.create(name=" a ")
            one.update(name=" b ")
            one.delete()
        finally:
            with connection.schema_editor() as editor:
                editor.delete_model(model)
    assert brief(changes) == [("create", "Quiet"), ("update", "Quiet"), ("delete", "Quiet")]


def test_decorated_methods_of_a_declared_model_may_call_super():  # noqa: C901 - many decorators
    def counted(limit: int) -> Any:
        def decorate(method: Any) -> Any:
            @wraps(method)
            def wrapper(self: Any, *arguments: Any) -> Any:
                return method(self, *arguments)[:limit]

            return wrapper

        return decorate

    class Around:
        def __init__(self, method: Any) -> None:
            self.method = method

        def __get__(self, instance: Any, owner: Any) -> Any:
            return lambda: self.method(instance)

    class Shared(DatabaseInterface):
        name = models.CharField(max_length=10)

        @loudly
        @loudly
        def __str__(self) -> str:
            return str(super().__str__())

    def declare(name: str) -> Any:
        class Interface(Shared):
            class Meta:
                app_label = "testapp"

            @counted(6)
            def short(self) -> Any:
                return super().__str__()

            @transaction.atomic
            def safe(self) -> Any:
                return super().__str__()

            @lru_cache(maxsize=4)  # noqa: B019 - as users write it
            def cached(self) -> Any:
                return super().__str__()

            @cached_property
            def once(self) -> Any:
                return super().__str__()

            @Around
            def around(self) -> Any:
                return super().__str__()

            @classmethod
            @loudly
            def of_class(cls) -> Any:
                return super().check  # type: ignore[misc]

        return type(name, (GeneralManager,), {"Interface": Interface, "__module__": __name__})

    with forgotten("firstdeclared", "seconddeclared"):
        for name in ("FirstDeclared", "SecondDeclared"):
            instance = declare(name).Interface.model(pk=5, name="a")
            shown = f"{name} object (5)"
            assert instance.short() == shown[:6]
            for method in (instance.__str__, instance.safe, instance.cached, instance.around):
                assert method() == shown
            assert instance.once == shown
            assert callable(instance.of_class())


def test_what_an_interface_cannot_be_is_refused_in_words_with_nothing_registered():
    before = dict(apps.all_models["testapp"]), dict(apps.all_models["rowapp"])
    with pytest.raises(TypeError, match="ExistingModelInterface"):

        class Wrong(GeneralManager):
            class Interface(Base, DatabaseInterface):
                class Meta:
                    app_label = "testapp"

    for option in ("abstract", "proxy"):
        meta = type("Meta", (), {"app_label": "testapp", option: True})
        interface = type("Interface", (DatabaseInterface,), {"Meta": meta})
        with pytest.raises(TypeError, match=rf"Meta\.{option} leaves the manager without a table"):
            type("Wrong", (GeneralManager,), {"Interface": interface})
    assert (dict(apps.all_models["testapp"]), dict(apps.all_models["rowapp"])) == before
    assert not any(one.__name__ == "Wrong" for one in GeneralManager.known_managers)


def test_a_template_cannot_change_anything():
    person = Person.create(name="Ada")
    context = Context({"person": person, "Person": Person})
    Template("{{ person.delete }}{{ person.update }}{{ person.save }}").render(context)
    Template("{{ person.create }}{{ rows.update_and_publish }}").render(context)
    assert Person.all().count() == 1
    verbs: list[Any] = [Person.create, person.update, person.delete]
    for verb in verbs:
        assert verb.alters_data


def test_excluded_fields_are_saved_and_not_reported():
    desk = desk_of("Encrypted", exclude=("data",))
    with reported() as changes:
        row = desk.create(data="seed", name="a")
        row.update(data="other seed")
        row.update(data="third", name="b")
        row.delete()
    assert [set(one.changes) for one in changes] == [{"name"}, {"name"}, {"name"}]
    assert "seed" not in str(changes)
    with pytest.raises(TypeError, match="exclude must be a list of names"):
        desk_of("Encrypted", exclude="data")


@cache
def user_desk() -> Any:
    interface = type("Interface", (ExistingModelInterface,), {"model": "auth.User"})
    made = type("UserDesk", (GeneralManager,), {"Interface": interface})
    GeneralManager.known_managers.remove(made)
    return made


def test_a_users_password_is_never_reported():
    with reported() as changes:
        user = user_desk().create(username="ada", password="pbkdf2$secret")
        user.update(password="pbkdf2$other", first_name="Ada")
        user.delete()
    assert len(changes) == 3
    assert not any("password" in one.changes for one in changes)
    assert "pbkdf2" not in str([one.changes for one in changes])


def test_a_manager_changes_a_row_with_a_column_that_cannot_be_read_and_leaves_that_column():
    desk = desk_of("Unreadable")
    row = desk.create(name="a", data="kept")
    with reported() as changes:
        desk(row.id).update(name="b")
        desk(row.id).update(name="b")
        desk(row.id).update(data="new")
    assert [dict(one.changes) for one in changes] == [{"name": ("a", "b")}]
    found = desk(row.id)
    assert found.name == "b"
    with pytest.raises(ValueError, match="the key is lost"):
        _ = found.data
    table = connection.ops.quote_name(desk.get_model()._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT data FROM {table}")
        assert list(cursor.fetchall()) == [("new",)]


def test_a_manager_creates_a_row_whose_class_refuses_to_load_it(caplog):
    desk = desk_of("AutoKey")

    def refuses(*_: Any) -> Any:
        raise LookupError("not today")

    desk.get_model().from_db = refuses
    try:
        with reported() as changes:
            desk.create(name="a")
    finally:
        del desk.get_model().from_db
    assert [(one.action, dict(one.changes)) for one in changes] == [
        ("create", {"name": (None, "a")})
    ]
    assert "is saved, but cannot be loaded again" in caplog.text
