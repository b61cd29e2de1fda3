"""GeneralManager on real tables: one transaction, validation, real differences, signals."""

import pickle
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import connections, models, transaction
from django.db.models import F

from general_manager import GeneralManager
from general_manager.interface import DatabaseInterface, ExistingModelInterface
from general_manager.manager import FieldChange
from general_manager.manager.signals import post_data_change, pre_data_change
from tests.testapp.models import (
    ArchivedProject,
    InvoiceDesk,
    Parcel,
    Person,
    Project,
    Seat,
    SeatPlan,
    Tag,
    Ticket,
    TicketDesk,
    Truck,
    TruckDesk,
)

pytestmark = pytest.mark.django_db(databases=["default", "archive"])
ProjectModel = Project.Interface.model


@pytest.fixture
def told():
    """What the signals said, in order."""
    said = []

    def before(sender, signal, **arguments):
        said.append(("pre", sender, arguments))

    def after(sender, signal, **arguments):
        said.append(("post", sender, arguments))

    pre_data_change.connect(before)
    post_data_change.connect(after)
    yield said
    pre_data_change.disconnect(before)
    post_data_change.disconnect(after)


def last_change(told):
    kind, _, arguments = told[-1]
    assert kind == "post"
    return arguments["change"]


def test_a_new_object_is_in_the_database_and_reported_with_its_values(told):
    person = Person.create(name="Ada")
    told.clear()
    project = Project.create(name="Apollo", owner=person, budget="12.5")
    row = ProjectModel.objects.get()
    assert project.identification == {"id": row.pk}
    assert (row.name, row.status, row.budget) == ("Apollo", "draft", Decimal("12.5"))
    assert [(kind, sender) for kind, sender, _ in told] == [("pre", Project), ("post", Project)]
    change = last_change(told)
    assert (change.action, change.manager, change.using) == ("create", "Project", "default")
    assert change.identification == {"id": row.pk}
    assert change.new_values["owner"] == person.id
    assert change.new_values["budget"] == Decimal("12.5")
    assert set(change.old_values.values()) == {None}
    assert told[0][2]["instance"] is None
    assert told[0][2]["values"] == {"name": "Apollo", "owner": person, "budget": "12.5"}
    assert told[1][2]["instance"] == project


def test_an_update_tells_only_what_really_changed(told):
    project = Project.create(name="Apollo", budget=5)
    told.clear()
    project.update(status="active", budget="5.00")
    change = last_change(told)
    assert change.action == "update"
    assert change.changes.pop("changed_at").new == project.changed_at
    assert change.changes == {"status": FieldChange("draft", "active")}
    assert project.status == "active"


def test_old_values_are_the_databases_and_not_the_objects(told):
    project = Project.create(name="Apollo")
    assert project.status == "draft"
    ProjectModel.objects.update(status="active", budget=7)
    project.update(status="draft")
    assert last_change(told).changes["status"] == ("active", "draft")
    assert project.budget == 7


def test_an_update_that_changes_nothing_saves_nothing_and_tells_nothing_after(
    told, django_assert_num_queries
):
    project = Project.create(name="Apollo")
    before = project.changed_at
    told.clear()
    project.update(status="draft")
    assert [kind for kind, _, _ in told] == ["pre"]
    assert ProjectModel.objects.get().changed_at == before


def test_a_deletion_is_reported_with_the_last_values(told):
    project = Project.create(name="Apollo")
    key = project.id
    project.delete()
    assert not ProjectModel.objects.exists()
    change = last_change(told)
    assert (change.action, change.identification) == ("delete", {"id": key})
    assert change.old_values["name"] == "Apollo"
    with pytest.raises(ProjectModel.DoesNotExist):
        _ = project.name


def test_many_to_many_values_are_set_and_reported(told):
    first, second = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    project = Project.create(name="Apollo", tags=[second, first.pk])
    assert last_change(told).changes["tags"] == (None, [first.pk, second.pk])
    told.clear()
    project.update(tags=[first])
    assert last_change(told).changes == {"tags": ([first.pk, second.pk], [first.pk])}
    told.clear()
    project.update(tags=[first.pk])
    assert [kind for kind, _, _ in told] == ["pre"]


def test_an_expression_is_computed_by_the_database_and_reported_as_a_value(told):
    project = Project.create(name="Apollo", budget=5)
    project.update(budget=F("budget") + 2)
    assert last_change(told).changes["budget"] == (Decimal(5), Decimal(7))
    assert project.budget == Decimal(7)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"name": "Apollo", "status": "odd"}, ValidationError),
        ({"name": "x" * 201}, ValidationError),
        ({"name": ""}, ValidationError),
        ({"name": "Apollo", "budget": "much"}, ValidationError),
        ({"nmae": "Apollo"}, TypeError),
        ({"name": "Apollo", "tags": "ab"}, TypeError),
        ({"name": "Apollo", "tags": 7}, TypeError),
    ],
)
def test_a_wrong_value_is_refused_with_nothing_done(told, values, error):
    with pytest.raises(error):
        Project.create(**values)
    assert not ProjectModel.objects.exists()
    project = Project.create(name="Old")
    told.clear()
    with pytest.raises(error):
        project.update(**values)
    assert ProjectModel.objects.get().name == "Old"
    assert [kind for kind, _, _ in told if kind == "post"] == []


def test_a_misspelt_field_suggests_the_right_one():
    with pytest.raises(TypeError, match="Project has no field 'nmae'; did you mean 'name'"):
        Project.create(nmae="Apollo")


def test_the_key_cannot_be_changed():
    project = Project.create(name="Apollo", id=77)
    assert project.id == 77
    with pytest.raises(TypeError, match=r"Project\.id identifies the object"):
        project.update(id=78)


@pytest.mark.parametrize("verb", ["update", "delete"])
def test_what_is_gone_cannot_be_changed(told, verb):
    project = Project(id=999)
    with pytest.raises(ProjectModel.DoesNotExist):
        getattr(project, verb)()
    assert told == []


@pytest.mark.parametrize("signal", [pre_data_change, post_data_change])
def test_a_receiver_that_raises_undoes_the_change(signal):
    project = Project.create(name="Apollo")

    def refuse(**_):
        raise RuntimeError("refused")

    signal.connect(refuse)
    try:
        for change in (
            lambda: Project.create(name="New"),
            lambda: project.update(status="active"),
            project.delete,
        ):
            with pytest.raises(RuntimeError, match="refused"):
                change()
    finally:
        signal.disconnect(refuse)
    assert [(row.name, row.status) for row in ProjectModel.objects.all()] == [("Apollo", "draft")]


def test_a_change_is_made_on_its_own_database(told):
    depths = []

    def look(using, **_):
        depths.append((using, connections[using].in_atomic_block))

    post_data_change.connect(look)
    try:
        archived = ArchivedProject.create(name="Gemini")
        archived.update(name="Mercury")
        archived.delete()
    finally:
        post_data_change.disconnect(look)
    assert depths == [("archive", True)] * 3
    assert {arguments["using"] for _, _, arguments in told} == {"archive"}


def test_who_and_why_go_to_the_signals(told):
    project = Project.create(
        name="Apollo", creator_id=7, history_comment="kick-off", ignore_permission=True
    )
    project.update(status="active", creator_id=8, history_comment="go", ignore_permission=True)
    project.delete(creator_id=9, ignore_permission=True)
    assert [arguments["creator_id"] for _, _, arguments in told] == [7, 7, 8, 8, 9, 9]
    assert [arguments["change"].creator_id for kind, _, arguments in told if kind == "post"] == [
        7,
        8,
        9,
    ]
    assert told[1][2]["history_comment"] == "kick-off"


def test_a_models_own_creator_id_is_set_too():
    desk = TicketDesk.create(title="Broken lamp", creator_id=7)
    assert Ticket.objects.get().creator_id == 7
    assert desk.creator_id == 7


# Identity


def test_an_object_is_known_before_it_is_read(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert Project(id=42).identification == {"id": 42}
        assert Project("42").identification == {"id": 42}
        assert Project(pk=42) == Project(id=42) != Project(id=43)
        assert len({Project(id=42), Project(42)}) == 1
        assert repr(Project(id=42)) == "Project(id=42)"
        assert Project(id=42).id == 42
        assert pickle.loads(pickle.dumps(Project(id=42))) == Project(id=42)
        assert Project(id=42) != Person(id=42)
        assert Project(id=42) != 42


def test_values_are_read_once_and_only_when_asked_for(django_assert_num_queries):
    key = Project.create(name="Apollo").id
    project = Project(id=key)
    with django_assert_num_queries(1):
        assert (project.name, project.status) == ("Apollo", "draft")


@pytest.mark.parametrize("key", ["abc", 4.5, True, [], {"id": 1}])
def test_a_key_of_a_wrong_type_is_refused_at_once(key):
    with pytest.raises(ValueError, match=r"Project\.id cannot be"):
        Project(id=key)


@pytest.mark.parametrize("arguments", [{}, {"name": "Apollo"}, {"id": 1, "name": "Apollo"}])
def test_an_object_is_identified_by_its_key_and_nothing_else(arguments):
    with pytest.raises(TypeError, match="Project is identified by id"):
        Project(**arguments)


def test_keys_of_other_kinds_work_too():
    code = uuid4()
    assert TicketDesk(code=str(code)).identification == {"code": code}
    created = TicketDesk.create(title="Broken lamp")
    assert isinstance(created.code, UUID)
    assert TicketDesk.get(title="Broken lamp") == created
    seat = SeatPlan.create(row="A", number=3)
    assert seat.identification == {"row": "A", "number": 3}
    seat.update(guest="Ada")
    assert Seat.objects.get().guest == "Ada"
    assert SeatPlan(row="A", number="3").guest == "Ada"


def test_attributes_cannot_be_set_behind_the_signals_back():
    project = Project.create(name="Apollo")
    with pytest.raises(AttributeError, match=r"Call update\(status=\.\.\.\)"):
        project.status = "active"


def test_a_missing_attribute_names_the_manager():
    project = Project.create(name="Apollo")
    with pytest.raises(AttributeError, match="Project has no attribute 'nmae'"):
        _ = project.nmae
    with pytest.raises(AttributeError, match="_private"):
        _ = project._private


def test_a_related_object_with_a_manager_comes_as_one():
    person = Person.create(name="Ada")
    project = Project.create(name="Apollo", owner=person)
    assert project.owner == person
    assert isinstance(project.owner, Person)
    assert project.owner_id == person.id
    assert Project.create(name="Gemini", owner_id=person.id).owner == person
    assert Project.create(name="Alone").owner is None


# Queries


def test_filter_exclude_all_and_get_give_managers(django_assert_num_queries):
    person = Person.create(name="Ada")
    for name in ("Apollo", "Gemini", "Mercury"):
        Project.create(name=name, owner=person if name != "Mercury" else None)
    with django_assert_num_queries(1):
        assert [project.name for project in Project.all()] == ["Apollo", "Gemini", "Mercury"]
    assert [one.name for one in Project.filter(owner=person).exclude(name="Gemini")] == ["Apollo"]
    assert [one.name for one in Project.filter(owner__in=[person])] == ["Apollo", "Gemini"]
    assert Project.exclude(owner=person).get().name == "Mercury"
    assert Project.get(name="Apollo").owner == person
    assert Project.filter(models.Q(name="Apollo")).count() == 1
    names = Project.all().order_by("-name")
    assert (names.first().name, names.last().name) == ("Mercury", "Apollo")  # type: ignore[union-attr]
    assert Project.filter(name="x").first() is None
    assert Project.filter(name="x").last() is None
    assert not Project.filter(name="x")
    assert not Project.filter(name="x").exists()
    assert len(Project.all()) == 3
    assert Project.all()[0].name == "Apollo"
    assert [one.name for one in Project.all()[1:]] == ["Gemini", "Mercury"]
    assert [one.name for one in Project.all()[::2]] == ["Apollo", "Mercury"]
    assert Project.get(name="Apollo") in Project.all().all()
    assert repr(Project.filter(name="Apollo")).startswith("<ManagerQuery [Project(id=")
    with pytest.raises(ProjectModel.DoesNotExist):
        Project.get(name="x")
    with pytest.raises(ProjectModel.MultipleObjectsReturned):
        Project.get(owner=person)


# Declarations


def test_a_declared_model_is_an_ordinary_model():
    assert ProjectModel._meta.label == "testapp.Project"
    assert ProjectModel._meta.ordering == ("name",)
    assert str(ProjectModel(name="Apollo")) == "Apollo"
    row = ProjectModel.objects.create(name="By the ORM")
    assert Project.get(name="By the ORM") == Project.of(row)
    assert Person.Interface.model.__doc__ == "Somebody who owns projects."


def test_fields_can_be_shared_by_inheritance():
    class Named(DatabaseInterface):
        name = models.CharField(max_length=10)

    class First(GeneralManager):
        class Interface(Named):
            class Meta:
                app_label = "testapp"

    class Second(GeneralManager):
        class Interface(Named):
            class Meta:
                app_label = "testapp"

    try:
        fields = [one.Interface.model._meta.get_field("name") for one in (First, Second)]
        assert fields[0] is not fields[1]
        assert [one.model.__name__ for one in fields] == ["First", "Second"]
    finally:
        from django.apps import apps

        for name, manager in (("first", First), ("second", Second)):
            del apps.all_models["testapp"][name]
            GeneralManager.known_managers.remove(manager)
        apps.clear_cache()


@pytest.mark.parametrize("model", [None, "Invoice", "billing.", 5, object])
def test_an_existing_model_must_be_named_rightly(model):
    with pytest.raises(TypeError, match=r"Wrong\.Interface\.model must be"):
        type(
            "Wrong",
            (GeneralManager,),
            {"Interface": type("Interface", (ExistingModelInterface,), {"model": model})},
        )


def test_an_interface_must_be_one():
    with pytest.raises(TypeError, match=r"Wrong\.Interface must derive from DatabaseInterface"):
        type("Wrong", (GeneralManager,), {"Interface": object})


def test_a_manager_without_an_interface_has_no_values():
    class Base(GeneralManager):
        """Shared behaviour."""

    with pytest.raises(TypeError, match="Base has no Interface"):
        Base(id=1)


def test_a_caller_who_rolls_back_undoes_the_change():
    with pytest.raises(RuntimeError), transaction.atomic():
        InvoiceDesk.create(number="1")
        raise RuntimeError
    assert not InvoiceDesk.all().exists()


# What went wrong once


def test_methods_of_a_declared_model_may_call_super():
    parcel = Parcel.create(label="  fragile ")
    assert parcel.label == "fragile"
    assert parcel.shout == f"Parcel object ({parcel.id})!"


def test_the_model_and_its_querysets_can_be_pickled():
    Parcel.create(label="a")
    model = Parcel.Interface.model
    assert pickle.loads(pickle.dumps(model)) is model
    assert [one.label for one in pickle.loads(pickle.dumps(model.objects.all()))] == ["a"]
    assert [one.label for one in pickle.loads(pickle.dumps(Parcel.all()))] == ["a"]
    error = pickle.loads(pickle.dumps(model.DoesNotExist("gone")))
    assert type(error) is model.DoesNotExist


def test_a_manager_has_its_models_exceptions():
    with pytest.raises(Project.DoesNotExist):
        Project.get(name="nobody")
    with pytest.raises(InvoiceDesk.DoesNotExist):
        _ = InvoiceDesk(id=999).status
    assert Project.MultipleObjectsReturned is ProjectModel.MultipleObjectsReturned


def test_an_inherited_key_identifies_and_cannot_be_changed(told):
    first, second = TruckDesk.create(name="one"), TruckDesk.create(name="two")
    assert TruckDesk(id=first.vehicle_ptr_id) == first
    with pytest.raises(TypeError, match=r"Truck\.id identifies"):
        first.update(id=second.vehicle_ptr_id)
    first.update(name="uno")
    assert last_change(told).changes == {"name": ("one", "uno")}
    assert [one.name for one in Truck.objects.order_by("pk")] == ["uno", "two"]


def test_a_failed_update_leaves_the_object_as_it_was():
    project = Project.create(name="Apollo")

    def refuse(**_):
        raise RuntimeError("refused")

    post_data_change.connect(refuse)
    try:
        with pytest.raises(RuntimeError):
            project.update(status="active")
    finally:
        post_data_change.disconnect(refuse)
    assert project.status == "draft"


def test_what_is_changed_in_place_is_reported(told):
    parcel = Parcel.create(label="a", data={"count": 1})
    assert last_change(told).new_values["data"] == {"count": 2}
    parcel.update(label="b")
    assert last_change(told).changes == {
        "label": ("a", "b"),
        "data": ({"count": 2}, {"count": 3}),
    }


def test_values_are_reported_as_the_database_has_them(told):
    parcel = Parcel.create(label="a", data={"size": (1, 2)})
    assert last_change(told).new_values["data"] == {"size": [1, 2]}
    told.clear()
    parcel.update(data={"size": (1, 2)})
    assert [kind for kind, _, _ in told] == ["pre"]
    project = Project.create(name="Apollo", budget=2)
    assert str(last_change(told).new_values["budget"]) == "2.00"
    project.update(budget=3)
    assert str(last_change(told).changes["budget"].new) == "3.00"


def test_what_a_receiver_changed_before_is_neither_lost_nor_reported_twice(told):
    project = Project.create(name="Apollo")

    def raise_the_budget(action, **_):
        ProjectModel.objects.update(budget=99)

    pre_data_change.connect(raise_the_budget)
    try:
        project.update(status="active")
    finally:
        pre_data_change.disconnect(raise_the_budget)
    assert project.budget == 99
    assert set(last_change(told).changes) == {"status", "changed_at"}


def test_managers_are_understood_wherever_a_filter_takes_objects():
    people = [Person.create(name=name) for name in ("Ada", "Grace", "Alan")]
    for person in people:
        Project.create(name=f"{person.name}'s", owner=person)
    ada, grace, _ = people
    both = models.Q(owner=ada) | models.Q(owner=grace)
    for found in (
        Project.filter(both),
        Project.filter(~~both),
        Project.filter(owner__in=[ada, grace]),
        Project.filter(owner__in=(one for one in (ada, grace))),
        Project.filter(owner__in=Person.filter(name__in=["Ada", "Grace"])),
    ):
        assert [one.name for one in found] == ["Ada's", "Grace's"]


def test_identification_is_the_callers_own_copy():
    project = Project(id=42)
    project.identification["id"] = 43
    assert project.identification == {"id": 42}


def test_an_error_inside_a_property_is_not_hidden():
    class Odd:
        @property
        def broken(self: Any):
            return self.nothing_there

    parcel = Parcel.create(label="a")
    vars(parcel)["_instance"] = Odd()
    with pytest.raises(AttributeError, match="nothing_there"):
        _ = parcel.broken
