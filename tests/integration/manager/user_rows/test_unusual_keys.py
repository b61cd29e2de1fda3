"""Rows whose keys are of unusual classes, or made by the database, are kept apart."""

from typing import Any

import pytest
from django.db.models.signals import post_save

from general_manager import GeneralManager
from general_manager.interface import ExistingModelInterface
from tests.integration.manager.user_rows.test_receivers import receiving
from tests.rowapp.fields import Opaque
from tests.rowapp.kinds import KINDS
from tests.rowapp.models import Shelf
from tests.rowapp.reported import reported

pytestmark = pytest.mark.django_db
Muted: Any = KINDS["MutedKey"].tracked


@pytest.mark.parametrize("chosen", [Muted.objects.all(), Muted.objects.only("code")])
def test_rows_whose_keys_have_one_repr_are_each_reported_when_they_are_deleted(chosen):
    for name in ("a", "b", "c"):
        Muted.objects.create(code=f"code {name}", name=name)
    with reported() as changes:
        chosen.all().delete()
    assert sorted((one.identification["code"], one.old_values["name"]) for one in changes) == [
        ("code a", "a"),
        ("code b", "b"),
        ("code c", "c"),
    ]


def test_related_rows_whose_keys_have_no_order_are_reported_in_the_databases():
    class ShelfDesk(GeneralManager):
        class Interface(ExistingModelInterface):
            model = Shelf

    books = [Shelf.books.rel.model.objects.create(code=Opaque(code)) for code in ("b", "a", "c")]
    try:
        with reported() as changes:
            shelf = ShelfDesk.create(books=books[:2])
            shelf.update(books=books)
            shelf.update(books=books)
    finally:
        GeneralManager.known_managers.remove(ShelfDesk)
    found = [[one.text for one in change.changes["books"].new] for change in changes]
    assert found == [["a", "b"], ["a", "b", "c"]]


def test_a_field_that_refuses_a_key_in_its_own_way_stops_no_save_during_a_managers_change(
    monkeypatch,
):
    model: Any = KINDS["TextKey"].tracked

    class TextDesk(GeneralManager):
        class Interface(ExistingModelInterface):
            model = KINDS["TextKey"].tracked

    def number(instance: Any, **_: Any) -> None:
        if instance.pk == "first":
            model(code=2).save()

    monkeypatch.setattr(model._meta.pk, "to_python", lambda value: value.strip())
    monkeypatch.setattr(model._meta.pk, "get_prep_value", str)
    try:
        with receiving(post_save, number, model), reported() as changes:
            TextDesk.create(code="first")
    finally:
        GeneralManager.known_managers.remove(TextDesk)
    assert [(one.manager, one.identification["code"]) for one in changes] == [
        ("TrackedTextKey", "2"),
        ("TextDesk", "first"),
    ]
