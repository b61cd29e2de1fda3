"""The table: create, save and delete of every kind of model, plain beside tracked."""

from typing import Any

import pytest
from django.db.models import QuerySet
from django.db.models.fields.files import FieldFile

from general_manager.manager.equality import same
from tests.rowapp.kinds import KINDS, Kind
from tests.rowapp.reported import brief, reported

pytestmark = pytest.mark.django_db
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def row(model: Any, kind: Kind, pk: Any) -> dict[str, Any] | None:
    """By field name, through no manager of the model's."""
    fields = [one for one in model._meta.concrete_fields if one.name not in kind.unread]
    found = QuerySet(model).order_by().values_list(*(one.attname for one in fields))
    names = [one.name for one in fields]
    rows = [dict(zip(names, values, strict=True)) for values in found]
    wanted = [one for one in rows if tuple(one[key.name] for key in keys(model)) == pk]
    return wanted[0] if wanted else None


def keys(model: Any) -> Any:
    return model._meta.pk_fields


def key_of(instance: Any) -> Any:
    return tuple(getattr(instance, one.attname) for one in keys(type(instance)))


def attempt(act: Any) -> Any:
    try:
        return act()
    except Exception as error:
        return type(error)


def live(model: Any, kind: Kind) -> list[tuple[Any, ...]]:
    """What each act gives, and the state of the instance and of the table after it."""
    instance = model(**kind.new())
    seen = []

    def note(outcome: Any) -> None:
        rows = QuerySet(model).order_by().count()
        seen.append(
            (outcome, instance._state.adding, instance._state.db, instance.pk is None, rows)
        )

    note(attempt(instance.save))
    for name, value in kind.change().items():
        setattr(instance, name, value)
    note(attempt(instance.save))
    note(attempt(lambda: instance.save(force_update=True)))
    note(attempt(lambda: instance.save(update_fields=list(kind.change()))))
    note(attempt(lambda: instance.save(force_insert=True)) if model._meta.parents else None)
    note(str(attempt(instance.delete)).replace(model.__name__, ""))
    note(attempt(instance.delete))
    return seen


@every_kind
@pytest.mark.django_db(transaction=True)
def test_every_act_has_the_same_result_and_the_same_errors_as_without_tracking(kind):
    plain = str(live(kind.plain, kind)).replace("Plain", "").replace("Tracked", "")
    tracked = str(live(kind.tracked, kind)).replace("Plain", "").replace("Tracked", "")
    for name in ("ProxyOf", "Untracked"):
        plain, tracked = plain.replace(name, ""), tracked.replace(name, "")
    assert tracked == plain


@every_kind
def test_every_act_is_reported_once_with_the_identity_and_the_values_of_the_row(kind):
    model = kind.tracked
    instance = model(**kind.new())
    with reported() as changes:
        instance.save()
    key = key_of(instance)
    now = row(model, kind, key) if kind.name != "OneWayKey" else None
    assert brief(changes) == [("create", name) for name in kind.reported]
    for one in changes:
        judge(one, kind, None, now)

    for name, value in kind.change().items():
        setattr(instance, name, value)
    with reported() as changes:
        instance.save()
    was, now = now, row(model, kind, key) if now else None
    assert brief(changes) == [("update", name) for name in kind.of_update]
    for one in changes:
        judge(one, kind, was, now)

    if kind.name not in {"Counted", "Hidden"}:  # one counts on, Django cannot save the other
        with reported() as changes:
            instance.save()
        assert changes == []

    with reported() as changes:
        instance.delete()
    assert sorted(brief(changes)) == sorted(("delete", name) for name in kind.reported)
    for one in changes:
        judge(one, kind, now, None)


def judge(change: Any, kind: Kind, was: Any, now: Any) -> None:
    assert change.using == "default"
    if now is None and was is None:
        return
    here = now or was
    for one in keys(change.model):
        assert same(change.identification[one.attname], here[one.name])
    for name, (old, new) in change.changes.items():
        assert name not in kind.unread
        assert not isinstance(new, FieldFile)
        assert same(old, was and was[name], change.model._meta.get_field(name))
        assert same(new, now and now[name], change.model._meta.get_field(name))
    if change.action != "update":
        hidden = {one.name for one in keys(change.model)} | kind.unread
        links = {one.name for one in change.model._meta.parents.values() if one}
        parents = {one.pk.name for one in (m._meta for m in change.model._meta.all_parents)}
        names = {one.name for one in change.model._meta.concrete_fields}
        assert set(change.changes) == names - hidden - links - parents


@every_kind
def test_nothing_of_ours_is_left_on_the_instance(kind):
    plain, tracked = kind.plain(**kind.new()), kind.tracked(**kind.new())
    plain.save()
    tracked.save()
    assert set(vars(tracked)) == {name.replace("plain", "tracked") for name in vars(plain)}
    relations = {one.get_accessor_name() for one in kind.tracked._meta.related_objects}
    ours = {"save_base", "_save_table", "_do_update", "__doc__"} | relations
    assert set(vars(kind.tracked)) - ours <= {
        name.replace("plain", "tracked") for name in vars(kind.plain)
    }
