"""Fields as other packages make them: vectors, secrets, values of classes of their own."""

import base64
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from django.core.files.storage import InMemoryStorage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import models
from django.db.models.expressions import Col

if TYPE_CHECKING:
    _Text = models.TextField[Any, Any]
    _Char = models.CharField[Any, Any]
else:
    _Text, _Char = models.TextField, models.CharField


class Undecided:
    """What comparing arrays gives: as many answers as there are numbers."""

    def __bool__(self) -> bool:
        raise ValueError("The truth value of an array with more than one element is ambiguous")


class Vector:
    """Compares like a numpy array."""

    def __init__(self, values: Any) -> None:
        self.values = list(values)

    def __eq__(self, other: object) -> Any:
        return Undecided()

    __hash__ = None  # type: ignore[assignment]


class VectorField(_Text):
    """Like pgvector's: its values are arrays, whose ``==`` gives no boolean."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return None if value is None else Vector(json.loads(value))

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else json.dumps([float(one) for one in value.values])

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value.values, model_instance)

    def run_validators(self, value: Any) -> None:
        super().run_validators(value.values)


class EncryptedField(_Text):
    """Another text in the database at each save, and the same value in Python."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return base64.b64decode(value[8:]).decode()

    def get_prep_value(self, value: Any) -> Any:
        return os.urandom(4).hex() + base64.b64encode(value.encode()).decode()


class Translated:
    """A text in several languages; without ``==``, and its ``str`` is one of the languages."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def __str__(self) -> str:
        return self.texts["en"]


class TranslatedField(_Text):
    def from_db_value(self, value: Any, *_: Any) -> Any:
        return Translated(json.loads(value))

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return json.dumps(value.texts, sort_keys=True)


class UnreadableField(_Text):
    """Whose key is lost: what is in the database cannot be made a value."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        raise ValueError("the key is lost")


class MadeKeyField(_Char):
    """A key that the field itself makes when the row is inserted."""

    def get_default(self) -> Any:
        return None

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        if add and not getattr(model_instance, self.attname):
            setattr(model_instance, self.attname, uuid4().hex)
        return getattr(model_instance, self.attname)


class Label:
    def __init__(self, text: str) -> None:
        self.text = text


class OneWayKeyField(_Char):
    """Gives a class of its own and does not take it back; a text it takes."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return Label(value)

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        if isinstance(value, Label):
            raise TypeError("a Label cannot be looked up")
        return value


class Muted(str):
    """A text that logs do not show: each has the same `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<muted>"


class MutedKeyField(_Char):
    def from_db_value(self, value: Any, *_: Any) -> Any:
        return Muted(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else "".join(value)


@dataclass(frozen=True)
class Opaque:
    """A key with equality, but without an order."""

    text: str


class OpaqueKeyField(_Char):
    def from_db_value(self, value: Any, *_: Any) -> Any:
        return Opaque(value)

    def to_python(self, value: Any) -> Any:
        return value if value is None or isinstance(value, Opaque) else Opaque(value)

    def get_prep_value(self, value: Any) -> Any:
        return value.text if isinstance(value, Opaque) else value


class CountingStorage(InMemoryStorage):
    """Counts how often a stored file is opened."""

    opened = 0

    def open(self, name: str, mode: str = "rb") -> Any:
        self.opened += 1
        return super().open(name, mode)


def picture(name: str, width: int, height: int) -> SimpleUploadedFile:
    """An image of that size, as far as anybody looks."""
    return SimpleUploadedFile(name, b"P6\n%d %d\n255\n" % (width, height))


class Version:
    """Whose ``==`` is looser than its text: 1.0 is 1.0.0."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    @property
    def _parts(self) -> tuple[str, ...]:
        return tuple(self.text.removesuffix(".0").split("."))


class VersionField(_Text):
    def from_db_value(self, value: Any, *_: Any) -> Any:
        return Version(value)

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return value.text if isinstance(value, Version) else value


class Place(NamedTuple):
    x: int
    y: int


class PlaceField(_Text):
    """Its values are tuples with names."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return Place(*json.loads(value))

    def to_python(self, value: Any) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        return json.dumps([value.x, value.y])


class _LowerCol(Col):
    def as_sql(self, *arguments: Any, **options: Any) -> Any:
        sql, parameters = super().as_sql(*arguments, **options)
        return f"LOWER({sql})", parameters


class WhisperedField(_Text):
    """What is read is not the column itself, as with encryption by the database."""

    def get_col(self, alias: Any, output_field: Any = None) -> Any:
        return _LowerCol(alias, self, output_field)


class LoudKeyField(_Char):
    """A key that is selected in capitals, as a geometry is selected as text."""

    def select_format(self, _: Any, sql: str, params: Any) -> Any:
        return f"UPPER({sql})", params
