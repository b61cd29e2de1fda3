"""Validation of settings values, with messages that name the expected value."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final, cast
from unicodedata import normalize

MODES: Final = ("local", "production")
_YES: Final = ("true", "1", "yes", "on")
_NO: Final = ("false", "0", "no", "off")


class WrongValue(Exception):
    """A wrong value; the text names the expected one.

    *nearest* is the closest valid value, if there is one.
    """

    def __init__(self, text: str, nearest: object = None) -> None:
        super().__init__(text)
        self.nearest = nearest


def mode(value: Any) -> str:
    if value in MODES:
        return cast(str, value)
    raise WrongValue(f"'local' or 'production'{did_you_mean(value, MODES)}")


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else None
    meant = True if word in _YES else False if word in _NO else None
    raise WrongValue("True or False", meant)


def count(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            near = nearest_number(value)
            raise WrongValue(
                f"a whole number of at least {minimum}",
                None if near is None else max(minimum, round(near)),
            )
        return value

    return parse


def duration(*, unit: str, whole: bool = False, zero: bool = False) -> Callable[[Any], timedelta]:
    kinds = int if whole else int | float
    wanted = f"a {'whole ' if whole else ''}number of {unit}, "
    wanted += "zero or more" if zero else "more than zero"

    def near(value: Any) -> float | None:
        number = nearest_number(value)
        if number is None:
            return None
        number = round(number) if whole or number.is_integer() else number
        return number if number > 0 else (0 if zero else 1)

    def parse(value: Any) -> timedelta:
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise WrongValue(wanted, near(value))
        if not (value > 0 or (zero and value == 0)):
            raise WrongValue(wanted, near(value))
        try:
            return timedelta(**{unit: value})
        except (OverflowError, ValueError):
            raise WrongValue(f"{wanted}, and at most {timedelta.max.days} days") from None

    return parse


def days_or_none(value: Any) -> timedelta | None:
    """Never suggest a number for zero: rows to keep might be deleted, or the reverse."""
    try:
        return None if value is None else duration(unit="days")(value)
    except WrongValue as wrong:
        number = nearest_number(value)
        raise WrongValue(str(wrong), wrong.nearest if number and number > 0 else None) from None


def nearest_number(value: Any) -> float | None:
    """*value* as a finite number, or `None`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


_WORD: Final = re.compile(
    r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+"  # API, Key, key, 2, and other scripts
)


def words(text: str) -> tuple[str, ...]:
    """The words of a name in lower case, split at capitals, digits and other non-letters.

    ``X-Api-Key``, ``apiKey`` and ``api_key2`` all consist of ``api`` and ``key``.
    """
    plain = text if text.isascii() else normalize("NFKC", text)
    return tuple(one.casefold() for one in _WORD.findall(plain))


def secret_names(value: Any) -> frozenset[tuple[str, ...]]:
    """Names as tuples of words that must follow each other."""
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(one, str) and words(one) for one in value
    ):
        raise WrongValue("a list of names of one or more words, such as 'api key'")
    return frozenset(words(one) for one in value)


def modules_or_none(value: Any) -> frozenset[str] | None:
    """A list of dotted names of modules or packages."""
    if value is None:
        return None
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(one, str) and all(part.isidentifier() for part in one.split("."))
        for one in value
    ):
        raise WrongValue("a list of dotted module names, such as ['shop', 'billing.workflows']")
    return frozenset(value)


def path_or_none(value: Any) -> str | None:
    """The dotted path of an object in a module."""
    if value is None:
        return None
    parts = value.split(".") if isinstance(value, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise WrongValue("a dotted path such as 'project.celery.app', or None")
    return str(value)


def base_url(value: Any) -> str:
    if not isinstance(value, str) or (value and not value.startswith(("http://", "https://"))):
        raise WrongValue("the address of your site, such as 'https://example.com', or empty")
    return value.rstrip("/")


def backend(value: Any) -> Any:
    """A mapping with a class and options, a dotted path, a class, factory or instance."""
    if isinstance(value, str) and not value.strip():
        raise WrongValue("a non-empty dotted path")
    if isinstance(value, Mapping):
        return _backend_mapping(value)
    if isinstance(value, bool | int | float | bytes | list | tuple | set):
        raise WrongValue(
            "a mapping with 'class' and 'options', a dotted path, a class or an instance"
        )
    return value


def _backend_mapping(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    known = ("class", "options")
    for key in value:
        if key not in known:
            raise WrongValue(
                f"a mapping with only 'class' and 'options'; it has {key!r}"
                f"{did_you_mean(key, known)}"
            )
    if not value.get("class"):
        raise WrongValue("a mapping with a 'class': a dotted path, a class or a factory")
    options = value.get("options")
    if options is not None and not (
        isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
    ):
        raise WrongValue("a mapping whose 'options' are a mapping with string keys")
    return value


def nearest(name: object, known: tuple[str, ...]) -> str | None:
    near = get_close_matches(str(name).upper(), known, n=1, cutoff=0.75)
    return near[0] if near else None


def nearest_without_prefix(name: object, known: tuple[str, ...], prefix: str) -> str | None:
    """The key that is closest to *name* if the keys' *prefix* is ignored."""
    short = {one.removeprefix(prefix): one for one in known}
    near = get_close_matches(str(name).upper(), short, n=1, cutoff=0.7)
    return short[near[0]] if near else None


def did_you_mean(value: object, known: tuple[str, ...]) -> str:
    near = get_close_matches(value.lower(), known, n=1) if isinstance(value, str) else ()
    return f" (did you mean {near[0]!r}?)" if near else ""


AGE_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """A duration such as ``30d``, ``12h`` or ``2w``."""
    number, unit = text.strip()[:-1], text.strip()[-1:].lower()
    try:
        found = timedelta(**{AGE_UNITS[unit]: float(number)})
    except (KeyError, ValueError, OverflowError):
        found = timedelta(0)
    if found <= timedelta(0):
        raise WrongValue("a number and a unit, such as 90s, 15m, 12h, 30d or 2w")
    return found
