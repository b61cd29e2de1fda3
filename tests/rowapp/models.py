"""Each kind of model twice: as Django has it, and tracked."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import wraps
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

from django.db import connection, models, transaction
from django.db.models import F, Q
from django.db.models.functions import Random

from general_manager import track_changes
from tests.rowapp.fields import (
    CountingStorage,
    EncryptedField,
    LoudKeyField,
    MadeKeyField,
    MutedKeyField,
    OneWayKeyField,
    OpaqueKeyField,
    Place,
    PlaceField,
    Translated,
    TranslatedField,
    UnreadableField,
    Vector,
    VectorField,
    Version,
    VersionField,
    WhisperedField,
    picture,
)
from tests.rowapp.kinds import KINDS, Body, Kind, kind, model, numbers, text

# Keys

kind("AutoKey", text)
kind("UuidKey", lambda: {"id": models.UUIDField(primary_key=True, default=uuid4), **text()})
kind(
    "TextKey",
    lambda: {"code": models.CharField(primary_key=True, max_length=40), **text()},
    new=lambda: {"code": f"code-{next(numbers)}"},
)
kind(
    "CompositeKey",
    lambda: {
        "pk": models.CompositePrimaryKey("row", "seat"),
        "row": models.CharField(max_length=2),
        "seat": models.IntegerField(),
        **text(),
    },
    new=lambda: {"row": "A", "seat": next(numbers)},
)
kind(
    "HalfDefaultedKey",
    lambda: {
        "pk": models.CompositePrimaryKey("row", "seat"),
        "row": models.CharField(max_length=20),
        "seat": models.CharField(max_length=5, db_default="s"),
        **text(),
    },
    new=lambda: {"row": f"row-{next(numbers)}"},
)
kind(
    "TwinKey",
    lambda: {
        "pk": models.CompositePrimaryKey("zone", "area"),
        "zone": models.IntegerField(),
        "area": models.IntegerField(),
        **text(),
    },
    new=lambda: {"zone": (number := next(numbers)), "area": number + 1},
)
kind(
    "FieldMadeKey",
    lambda: {"id": MadeKeyField(primary_key=True, max_length=40, blank=True), **text()},
)
kind(
    "VolatileKey",
    lambda: {"id": models.FloatField(primary_key=True, db_default=Random()), **text()},
)
kind(
    "OneWayKey",
    lambda: {"code": OneWayKeyField(primary_key=True, max_length=40), **text()},
    new=lambda: {"code": f"way-{next(numbers)}"},
)
kind(
    "MutedKey",
    lambda: {"code": MutedKeyField(primary_key=True, max_length=40), **text()},
    new=lambda: {"code": f"code-{next(numbers)}"},
)
kind(
    "DecimalKey",
    lambda: {
        "sum": models.DecimalField(primary_key=True, max_digits=9, decimal_places=2),
        **text(),
    },
    new=lambda: {"sum": Decimal(next(numbers))},
)
kind("OnlyKey", dict, change=dict)
KINDS["OnlyKey"].of_update = []

Book = model("Book", {"code": OpaqueKeyField(primary_key=True, max_length=9)})
Horn = model("Horn", {"code": LoudKeyField(primary_key=True, max_length=9)})
Horned = track_changes(
    model("Horned", {"horn": models.ForeignKey(Horn, models.CASCADE, null=True, related_name="+")})
)
Shelf = model("Shelf", {"books": models.ManyToManyField(Book)})

# Fields

kind("Money", lambda: {"sum": models.DecimalField(max_digits=9, decimal_places=2)},
     new=lambda: {"sum": "1.5"}, change=lambda: {"sum": Decimal(7)})  # fmt: skip
kind("Json", lambda: {"data": models.JSONField(default=dict)},
     new=lambda: {"data": {"b": [1, 2], "a": None}},
     change=lambda: {"data": {"b": (1, 3)}})  # fmt: skip
kind("Binary", lambda: {"data": models.BinaryField()},
     new=lambda: {"data": b"\x00\xff"}, change=lambda: {"data": b"\x01"})  # fmt: skip
kind("Vector", lambda: {"data": VectorField(), **text()},
     new=lambda: {"data": Vector([1.0, 2.0])},
     change=lambda: {"data": Vector([1.0, 3.0]), "name": "b"})  # fmt: skip
kind("Encrypted", lambda: {"data": EncryptedField(), **text()}, new=lambda: {"data": "seed"})
kind("Whispered", lambda: {"name": WhisperedField(default="a")})
kind("Translated", lambda: {"title": TranslatedField()},
     new=lambda: {"title": Translated({"en": "Bill", "de": "Rechnung"})},
     change=lambda: {"title": Translated({"en": "Bill", "de": "Beleg"})})  # fmt: skip
kind("Versioned", lambda: {"data": VersionField()},
     new=lambda: {"data": Version("1.0")}, change=lambda: {"data": Version("1.0.0")})  # fmt: skip
kind("Placed", lambda: {"at": PlaceField()}, new=lambda: {"at": Place(1, 2)},
     change=lambda: {"at": Place(2, 3)})  # fmt: skip
kind("Unreadable", lambda: {"data": UnreadableField(default="x"), **text()}, unread={"data"})
kind("Stored", lambda: {"file": models.FileField(), **text()}, new=lambda: {"file": "a.txt"})
kind("Generated", lambda: {
    "name": models.CharField(max_length=50, default="a"),
    "shout": models.GeneratedField(
        expression=models.functions.Upper("name"),
        output_field=models.CharField(max_length=50),
        db_persist=True,
    ),
})  # fmt: skip
kind("Defaulted", lambda: {"level": models.IntegerField(db_default=7), **text()})
kind("Counted", lambda: {"number": models.IntegerField(default=1)},
     change=lambda: {"number": F("number") + 1})  # fmt: skip
kind("Numbered", lambda: {"number": models.IntegerField(unique=True), **text()},
     new=lambda: {"number": next(numbers)})  # fmt: skip
kind("Timed", lambda: {"at": models.DateTimeField(), "on": models.DateField(null=True, blank=True)},
     new=lambda: {"at": datetime(2026, 3, 29, 1, 30, tzinfo=UTC)},
     change=lambda: {"at": datetime(2026, 3, 29, 2, 0, tzinfo=UTC), "on": date(2026, 3, 29)},
     )  # fmt: skip
kind("Ours", lambda: {
    name: models.CharField(max_length=20, default="a")
    for name in ("change_tracker", "told_elsewhere", "general_manager", "values_before_delete",
                 "tracker", "saves", "reported", "excluded_fields")
}, change=lambda: {"change_tracker": "b", "general_manager": "c"})  # fmt: skip

# Managers


class Hiding(models.Manager[Any]):
    def get_queryset(self) -> Any:
        return super().get_queryset().filter(name="a")


class Deferring(models.Manager[Any]):
    def get_queryset(self) -> Any:
        return super().get_queryset().defer("name")


class Annotating(models.Manager[Any]):
    def get_queryset(self) -> Any:
        rows = super().get_queryset().select_related("above")
        return rows.annotate(below_count=models.Count("below")).order_by("above__name")


def with_base_manager(manager: Any) -> Body:
    return lambda: {"rows": manager(), "objects": models.Manager(), **text()}


def above(prefix: str) -> dict[str, Any]:
    return {
        **text(),
        "above": models.ForeignKey(
            "self", models.CASCADE, null=True, blank=True, related_name="below"
        ),
    }


kind("Hidden", with_base_manager(Hiding), meta=lambda _: {"base_manager_name": "rows"})
kind("Deferred", with_base_manager(Deferring), meta=lambda _: {"base_manager_name": "rows"})
kind("Ordered", lambda: above(""), meta=lambda _: {"ordering": ["above__name", "-name"]})
kind("Linked", lambda: {
    **text(),
    "other": models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="+"),
})  # fmt: skip
kind("Annotated", lambda: {**above(""), "rows": Annotating(), "objects": models.Manager()},
     meta=lambda _: {"base_manager_name": "rows"})  # fmt: skip
kind("SelectOnSave", text, meta=lambda _: {"select_on_save": True})
kind("Checked", text, meta=lambda prefix: {
    "constraints": [models.CheckConstraint(condition=~Q(name="c"), name=f"{prefix.lower()}_not_c")]
})  # fmt: skip

# Methods


def loudly(method: Any) -> Any:
    @wraps(method)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        return method(*arguments, **options)

    return wrapper


class Strict(models.Model):
    """Refuses attributes that it does not know, and looks them up in its own way."""

    name = models.CharField(max_length=50, default="a")

    class Meta:
        abstract = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {"_state", "id", "name", "pk"}:
            raise TypeError(f"no attribute {name}")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)

    @loudly
    @transaction.atomic
    def save(self, *arguments: Any, **options: Any) -> None:
        super().save(*arguments, **options)

    def delete(self) -> Any:  # type: ignore[override]
        return super().delete()


kind("Strict", dict, bases=lambda _: (Strict,))


class Kept(models.Model):
    """A deletion leaves the row, and says so in it."""

    name = models.CharField(max_length=50, default="a")
    gone = models.BooleanField(default=False)
    refuses = models.BooleanField(default=False)

    class Meta:
        abstract = True

    def delete(self, *_: Any, **__: Any) -> tuple[int, dict[str, int]]:
        if not self.refuses:
            self.gone = True
            self.save()
        return 0, {}


KeptRow = model("KeptRow", {}, Kept)


class Upsert(models.Model):
    """Whose `save_base` takes an argument of its own, and changes those of Django."""

    code = models.CharField(primary_key=True, max_length=9)
    name = models.CharField(max_length=9, default="a")
    note = models.CharField(max_length=9, default="n")

    class Meta:
        abstract = True

    def save_base(self, *arguments: Any, wide: bool = False, **options: Any) -> None:
        options["force_insert"] = False
        if self.name == "there":
            options["using"] = "archive"
        if wide:
            options["update_fields"] = None
        super().save_base(*arguments, **options)

    def save_wide(self) -> None:
        self.save_base(update_fields=frozenset({"name"}), wide=True)


Upserted = track_changes(model("Upserted", {}, Upsert))

# Inheritance


class Base(models.Model):
    name = models.CharField(max_length=50, default="a")
    note = models.CharField(max_length=50, default="n")

    class Meta:
        abstract = True


kind("Concrete", dict, bases=lambda _: (Base,))


def child(prefix: str) -> Callable[[str], tuple[Any, ...]]:
    return lambda twin: (KINDS[prefix].plain if twin == "Plain" else KINDS[prefix].tracked,)


class UntrackedParent(models.Model):
    name = models.CharField(max_length=50, default="a")


def load() -> dict[str, Any]:
    return {"load": models.IntegerField(default=1)}


kind("Parent", text)
kind("OwnKeyChild", lambda: {
    "code": models.CharField(primary_key=True, max_length=40),
    "load": models.IntegerField(default=1),
    "parent": models.OneToOneField(UntrackedParent, models.CASCADE, parent_link=True),
}, bases=lambda _: (UntrackedParent,), new=lambda: {"code": f"child-{next(numbers)}"})  # fmt: skip
kind("ChildOfTracked", load, bases=child("Parent"), change=lambda: {"load": 2},
     reported=["TrackedParent", "TrackedChildOfTracked"],
     of_update=["TrackedChildOfTracked"])  # fmt: skip
KINDS["ParentsColumn"] = Kind(
    "ParentsColumn", KINDS["ChildOfTracked"].plain, KINDS["ChildOfTracked"].tracked, dict,
    lambda: {"name": "b"}, ["TrackedParent", "TrackedChildOfTracked"], ["TrackedParent"],
)  # fmt: skip
KINDS["BothColumns"] = Kind(
    "BothColumns", KINDS["ChildOfTracked"].plain, KINDS["ChildOfTracked"].tracked, dict,
    lambda: {"name": "b", "load": 2}, ["TrackedParent", "TrackedChildOfTracked"],
    ["TrackedParent", "TrackedChildOfTracked"],
)  # fmt: skip
kind("ChildOfUntracked", load, bases=lambda _: (UntrackedParent,))
UntrackedChild = model("UntrackedChild", load(), KINDS["Parent"].tracked)
PlainChild = model("PlainChild", load(), KINDS["Parent"].plain)
KINDS["UntrackedChild"] = Kind(
    "UntrackedChild", PlainChild, UntrackedChild, dict, lambda: {"name": "b"}, ["TrackedParent"],
    ["TrackedParent"],
)  # fmt: skip


class Ship(models.Model):
    """A second parent, with a key of another name."""

    ship_id = models.AutoField(primary_key=True)
    flag = models.CharField(max_length=50, default="f")

    class Meta:
        abstract = True


kind("SecondParent", dict, bases=lambda _: (Ship,), change=lambda: {"flag": "g"})
kind("ChildOfTwo", load, change=lambda: {"load": 2}, of_update=["TrackedChildOfTwo"],
     bases=lambda twin: (*child("Parent")(twin), *child("SecondParent")(twin)),
     reported=["TrackedSecondParent", "TrackedParent", "TrackedChildOfTwo"])  # fmt: skip
GrandchildOfTwo = model("GrandchildOfTwo", {}, KINDS["ChildOfTwo"].tracked)
ProxyOfTracked = model("ProxyOfTracked", {}, KINDS["AutoKey"].tracked, proxy=True)
ProxyOfPlain = model("ProxyOfPlain", {}, KINDS["AutoKey"].plain, proxy=True)
KINDS["Proxy"] = Kind(
    "Proxy", ProxyOfPlain, ProxyOfTracked, dict, lambda: {"name": "b"}, ["TrackedAutoKey"],
    ["TrackedAutoKey"],
)  # fmt: skip
ProxyOfChild = model("ProxyOfChild", {}, KINDS["ChildOfTracked"].tracked, proxy=True)
PlainProxyOfChild = model("PlainProxyOfChild", {}, KINDS["ChildOfTracked"].plain, proxy=True)
KINDS["ProxyOfChild"] = Kind(
    "ProxyOfChild", PlainProxyOfChild, ProxyOfChild, dict, lambda: {"load": 2},
    ["TrackedParent", "TrackedChildOfTracked"], ["TrackedChildOfTracked"],
)  # fmt: skip

if find_spec("PIL") is not None:
    kind(
        "Pictured",
        lambda: {
            "image": models.ImageField(
                width_field="width", height_field="height", storage=CountingStorage()
            ),
            "width": models.IntegerField(null=True),
            "height": models.IntegerField(null=True),
        },
        new=lambda: {"image": picture("a.ppm", 3, 2)},
        change=lambda: {"image": picture("b.ppm", 5, 4)},
    )

if connection.vendor == "postgresql":
    from django.contrib.postgres.fields import ArrayField, IntegerRangeField
    from django.db.backends.postgresql.psycopg_any import NumericRange

    kind("Array", lambda: {"data": ArrayField(models.FloatField(null=True))},
         new=lambda: {"data": [1.0, float("nan")]}, change=lambda: {"data": [2.0]})  # fmt: skip
    kind("Range", lambda: {"data": IntegerRangeField()},
         new=lambda: {"data": NumericRange(1, 5)}, change=lambda: {"data": (2, 6)})  # fmt: skip
    kind("NotANumber", lambda: {"data": models.FloatField(), **text()},
         new=lambda: {"data": float("nan")})  # fmt: skip


class Keywords:
    """Whose `_do_update` calls Django's with the names of its arguments."""

    def _do_update(self, base_qs: Any, using: str, pk_val: Any, values: Any, *others: Any) -> Any:
        names = ("update_fields", "forced_update", "returning_fields")
        named = dict(zip(names, others, strict=False))
        above: Any = super()
        return above._do_update(base_qs, using, pk_val, values, **named)


KeywordChild = model("KeywordChild", {}, Keywords, KINDS["Parent"].tracked)


class Versions:
    """Each save but the first writes another row."""

    def save(self, *arguments: Any, **options: Any) -> None:
        row: Any = self
        if not row._state.adding:
            row.pk, row._state.adding = None, True
            options.pop("force_update", None)
        above: Any = super()
        above.save(*arguments, **options)


Versioned = track_changes(model("Versioned", text(), Versions, models.Model))


class Named:
    """Its key follows its name."""

    def save(self, *arguments: Any, **options: Any) -> None:
        row: Any = self
        if not row._state.adding and row.slug != row.name:
            type(row).objects.filter(pk=row.pk).update(slug=row.name)
            row.slug = row.name
        above: Any = super()
        above.save(*arguments, **options)


Slugged = model(
    "Slugged",
    {"slug": models.CharField(max_length=20, primary_key=True), **text()},
    Named,
    models.Model,
)

Travel = model("Travel", {"cls": models.CharField(max_length=9)})
