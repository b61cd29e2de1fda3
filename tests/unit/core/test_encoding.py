"""What becomes JSON, what is refused, and where the culprit sits."""

import enum
import json
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import models
from django.db.models.fields.files import FieldFile
from django.utils.functional import SimpleLazyObject, lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from general_manager.workflow.core.encoding import (
    copy_encoded,
    encode,
    encode_mapping,
    error_text,
    storable_text,
    traceback_text,
)
from general_manager.workflow.exceptions import EncodingError
from tests.testapp.models import Invoice, Project, Seat


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (1.5, 1.5),
        ("ä", "ä"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "2026-01-02T03:04:05.678901+00:00"),
        (time(3, 4), "03:04:00"),
        (timedelta(hours=1), "P0DT01H00M00S"),
        (Decimal("12.50"), "12.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (gettext_lazy("Name"), "Name"),
        (lazystr("lazy"), "lazy"),
        (mark_safe("<b>"), "<b>"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(a=1), {"a": 1}),
        (SimpleLazyObject(lambda: "lazy"), "lazy"),
        (SimpleLazyObject(lambda: Invoice(pk=7)), 7),
        (SimpleLazyObject(lambda: 1.5), 1.5),
        (FieldFile(Invoice(), models.FileField(), "logos/a.png"), "logos/a.png"),
        (FieldFile(Invoice(), models.FileField(), None), None),
        (
            {1: "a", Colour.RED: "b", UUID(int=0): "c"},
            {"1": "a", "red": "b", str(UUID(int=0)): "c"},
        ),
        (Invoice(pk=7), 7),
        (Seat(row="A", number=3), ["A", 3]),
    ],
)
def test_a_value_becomes_json(value, encoded):
    assert encode(value, root="x") == encoded
    assert type(encode(value, root="x")) is type(encoded)


def test_a_manager_becomes_its_identification():
    assert encode({"project": Project(id=42)}, root="x") == {"project": {"id": 42}}


def _cycle():
    inner: dict[str, object] = {}
    inner["again"] = {"list": [inner]}
    return {"inner": inner}


def _deep(levels):
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"changes": {"owner": {"new": object()}}}, "payload.changes.owner.new", "builtins.object"),
        ({"a": [1, float("nan")]}, "payload.a[1]", "nan"),
        ({"a": float("inf")}, "payload.a", "inf"),
        ({"a": Decimal("NaN")}, "payload.a", "NaN"),
        ({"a": b"x"}, "payload.a", "bytes"),
        ({"a": "x\x00y"}, "payload.a", "NUL"),
        ({"a": "\ud800"}, "payload.a", "surrogate"),
        ({"a": {"b\x00": 1}}, "payload.a", "NUL"),
        ({"a": {(1, 2): 1}}, "payload.a", "not a string"),
        ({"a": {None: 1}}, "payload.a", "not a string"),
        ({"a": {1: "x", "1": "y"}}, "payload.a", "two keys"),
        ({"a": 1 << 5000}, "payload.a", "5001 bits"),
        ({"a": Invoice()}, "payload.a", "has no key"),
        ({"a": (n for n in "ab")}, "payload.a", "generator"),
        (_cycle(), "payload.inner.again.list[0]", "contains itself"),
        ({"a": _deep(200)}, "payload.a[0][0][0][0]", "more than 30 deep"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(value, path, reason):
    with pytest.raises(EncodingError) as caught:
        encode(value, root="payload")
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_the_same_list_twice_is_no_cycle():
    shared = [1]
    assert encode({"a": shared, "b": shared}, root="x") == {"a": [1], "b": [1]}


def test_nothing_is_shared_with_the_original():
    original = {"a": {"b": [1]}}
    encoded = encode(original, root="x")
    copied = copy_encoded(encoded)
    original["a"]["b"].append(2)
    encoded["a"]["b"].append(3)
    assert copied == {"a": {"b": [1]}}


def test_what_must_be_a_mapping_is_refused_by_name():
    with pytest.raises(TypeError, match="input_data must be a mapping"):
        encode_mapping([1], root="input_data")  # type: ignore[arg-type]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00")),
    lambda children: (
        st.lists(children)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\x00")), children
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_as_it_went_in(value):
    encoded = encode(value, root="x")
    assert encoded == value
    assert json.loads(json.dumps(encoded)) == encoded
    assert copy_encoded(encoded) == encoded


@given(st.text())
def test_any_text_can_be_made_storable(text):
    stored = storable_text(text, limit=50)
    assert len(stored) <= 50
    assert encode(stored, root="x") == stored


def test_too_long_a_text_keeps_its_beginning_and_its_end():
    stored = storable_text("start" + "x" * 1000 + "end", limit=100)
    assert len(stored) == 100
    assert stored.startswith("start")
    assert stored.endswith("end")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


def test_an_error_that_cannot_be_text_is_reported_by_its_type():
    assert error_text(Unspeakable()) == "Unspeakable"
    assert error_text(ValueError()) == "ValueError"
    assert error_text(ValueError("a\x00b")) == "a\\x00b"
    assert error_text(KeyError("status")) == "KeyError: 'status'"
    assert "Unspeakable" in traceback_text(Unspeakable())
    assert "ValueError: no" in traceback_text(ValueError("no"))
