"""Redacts secrets wherever values are shown.

`WORKFLOW_REDACT` contains words and groups of words. A key is secret if it contains such a word, or
the words of a group in order.
"""

from collections.abc import Mapping
from functools import lru_cache
from json import dumps
from typing import Any, Final

from general_manager.conf import get_workflow_settings
from general_manager.escaping import cut, visible
from general_manager.parsing import words

REDACTED: Final = "••••••"
DEEPEST: Final = 40
"""Deeper levels are cut: nobody reads them, and endless nesting must not break a page."""
MOST_TEXT: Final = 10_000
"""Characters shown of one text."""
MOST_ITEMS: Final = 500
"""Items shown of one list or mapping."""
MOST_PARTS: Final = 20_000
"""Values shown in total."""
LONGEST_KEY: Final = 200
"""Characters of a key that are compared; a longer key is not a name."""

_NAMING: Final = ("name", "key", "field", "header")
_VALUE_KEYS: Final = ("value", "values", "old", "new", "before", "after")
_Names = frozenset[tuple[str, ...]]


def is_secret(key: str) -> bool:
    """Whether the values under *key* are redacted."""
    return _is_secret(key[:LONGEST_KEY], get_workflow_settings().redact)


@lru_cache(maxsize=2_000)  # keys are bounded; payloads repeat the same ones
def _is_secret(key: str, names: _Names) -> bool:
    found = [_singular(one) for one in words(key)]
    for name in names:
        wanted = [_singular(one) for one in name]
        size = len(wanted)
        if any(found[at : at + size] == wanted for at in range(len(found) - size + 1)):
            return True
        if size > 1 and "".join(wanted) in found:
            return True  # "apikey" for "api key"
    return False


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def redact(value: Any) -> Any:
    """A copy of the encoded *value* with the values of `WORKFLOW_REDACT`'s keys redacted."""
    return _Copy(None).of(value, 0)


def redact_named(name: str, value: Any) -> Any:
    """`redact` for a value that has a name itself, such as a step's result."""
    return REDACTED if value is not None and is_secret(name) else redact(value)


def excerpt(value: Any) -> Any:
    """`redact`, bounded: long texts and lists are cut with a note of their length."""
    return _Copy(MOST_PARTS).of(value, 0)


class _Copy:
    """Makes one copy; with *left*, of at most so many values of bounded length."""

    def __init__(self, left: int | None) -> None:
        self._left = left
        self._names = get_workflow_settings().redact

    def of(self, value: Any, depth: int) -> Any:
        if depth > DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        if self._left is not None:
            self._left -= 1
            if isinstance(value, str):
                return cut(value, MOST_TEXT)
        return value

    def _most(self, size: int) -> int:
        return size if self._left is None else max(0, min(size, MOST_ITEMS, self._left))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        named = self._names_a_secret(value)
        most = self._most(len(value))
        copy: dict[str, Any] = {}
        for key, one in value.items():
            if len(copy) >= most:
                break
            text = str(key)
            is_secret = self._is_secret(text) or (named and text.lower() in _VALUE_KEYS)
            shown = text if self._left is None else cut(text, LONGEST_KEY)
            copy[shown] = REDACTED if is_secret else self.of(one, depth + 1)
        if most < len(value):
            copy["…"] = f"{len(value) - most:,} more"
        return copy

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        most = self._most(len(value))
        are_pairs = bool(value) and all(
            isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str)
            for one in value[:most]
        )  # headers, items of a mapping
        copy = [
            [one[0], REDACTED] if are_pairs and self._is_secret(one[0]) else self.of(one, depth + 1)
            for one in value[:most]
        ]
        if most < len(value):
            copy.append(f"… {len(value) - most:,} more")
        return copy

    def _names_a_secret(self, value: Mapping[Any, Any]) -> bool:
        """Whether it is like ``{"name": "api_key", "value": ...}``: a key beside its value."""
        for key, one in value.items() if len(value) <= MOST_ITEMS else ():
            if isinstance(one, str) and str(key).lower() in _NAMING and self._is_secret(one):
                return True
        return False

    def _is_secret(self, key: str) -> bool:
        return _is_secret(key[:LONGEST_KEY], self._names)


def readable(value: Any, *, most: int | None = None) -> str:
    """Redacted *value* as indented JSON with sorted keys, cut after *most* characters.

    Invisible characters are escaped, so that the text cannot control a terminal or reverse a line.
    """
    # dumps already escapes line feeds as JSON does; it would escape those of `visible` again.
    text = dumps(excerpt(value), indent=2, sort_keys=True, ensure_ascii=False, default=str)
    text = visible(text, lines=True)
    return text if most is None else cut(text, most)
