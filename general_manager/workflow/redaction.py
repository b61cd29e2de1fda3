"""What people may see of payloads: secrets are redacted wherever values are shown.

By the words of a key: `WORKFLOW_REDACT` has words and groups of words, and a key that has such a
word, or the words of a group one after the other, is secret whatever else it has.
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
"""Nobody reads further down, and a page must not break on what is nested without end."""
MOST_TEXT: Final = 10_000
"""Characters of one text that are read out."""
MOST_ITEMS: Final = 500
"""Items of one list or mapping that are read out."""
MOST_VALUES: Final = 20_000
"""Values of any kind, in all."""
LONGEST_KEY: Final = 200
"""What is longer is no name; it is compared only so far."""

_NAMING: Final = ("name", "key", "field", "header")
_NAMED: Final = ("value", "values", "old", "new", "before", "after")
_Names = frozenset[tuple[str, ...]]


def is_secret(key: str) -> bool:
    """Whether the values under *key* are redacted."""
    return _is_secret(key[:LONGEST_KEY], get_workflow_settings().redact)


@lru_cache(maxsize=2_000)  # of bounded keys: payloads name the same ones again and again
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
    """A copy of encoded *value* without the values of keys that `WORKFLOW_REDACT` names."""
    return _Copy(None).of(value, 0)


def redact_named(name: str, value: Any) -> Any:
    """`redact` for the value of something that has a name itself, such as a step's result."""
    return REDACTED if value is not None and is_secret(name) else redact(value)


def excerpt(value: Any) -> Any:
    """`redact`, bounded: long texts and long lists are cut, and say how long they are."""
    return _Copy(MOST_VALUES).of(value, 0)


class _Copy:
    """One copy; with *left*, no more than so many values of bounded length."""

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
            is_secret = self._is_secret(text) or (named and text.lower() in _NAMED)
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
        """``{"name": "api_key", "value": ...}``: a key and its value beside each other."""
        for key, one in value.items() if len(value) <= MOST_ITEMS else ():
            if isinstance(one, str) and str(key).lower() in _NAMING and self._is_secret(one):
                return True
        return False

    def _is_secret(self, key: str) -> bool:
        return _is_secret(key[:LONGEST_KEY], self._names)


def readable(value: Any, *, most: int | None = None) -> str:
    """Redacted *value* as indented JSON with sorted keys, bounded, and cut off after *most*.

    What cannot be seen is escaped, so that nothing in it moves a terminal or turns a line around.
    """
    # dumps escapes line feeds in texts as JSON does; the escapes of `visible` would be escaped.
    text = dumps(excerpt(value), indent=2, sort_keys=True, ensure_ascii=False, default=str)
    text = visible(text, lines=True)
    return text if most is None else cut(text, most)
