"""Rows whose keys are of unusual classes, or made by the database, are kept apart."""

from typing import Any

import pytest

from tests.rowapp.kinds import KINDS
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
