"""What people may see of payloads: secrets are blotted out wherever they are shown."""

from collections.abc import Mapping
from json import dumps
from typing import Any, Final

from general_manager.conf import get_workflow_settings

BLOT: Final = "••••••"
DEEPEST: Final = 40
"""Nobody reads further down, and a page must not break on what is nested without end."""


def redact(value: Any) -> Any:
    """A copy of encoded *value* without the values of keys that `WORKFLOW_REDACT` names."""
    return _redact(value, get_workflow_settings().redact, 0)


def _redact(value: Any, names: frozenset[str], depth: int) -> Any:
    if depth > DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(key): BLOT if str(key).lower() in names else _redact(one, names, depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(one, names, depth + 1) for one in value]
    return value


def readable(value: Any, *, most: int | None = None) -> str:
    """Redacted *value* as indented JSON with sorted keys, cut off after *most* characters."""
    text = dumps(redact(value), indent=2, sort_keys=True, ensure_ascii=False, default=str)
    if most is not None and len(text) > most:
        return f"{text[:most]}\n… ({len(text):,} characters in all)"
    return text
