"""Rows whose keys are of unusual classes, or made by the database, are kept apart."""

from typing import Any

import pytest

from general_manager import GeneralManager
from general_manager.interface import ExistingModelInterface
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
