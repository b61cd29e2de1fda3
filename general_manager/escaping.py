"""Escape invisible characters in stored text for terminals, log lines and pages."""

import logging
import re
from collections.abc import Iterator
from json import dumps
from traceback import format_exception
from typing import Any, Final

from general_manager.guarding import attempt

_INVISIBLE: Final = (
    "\x00-\x1f\x7f-\x9f"  # control characters: terminal escapes, forged lines
    "\xad\u061c\u180e\u200b\u200e\u200f\u2060-\u2065\ufeff\ufff9-\ufffb"  # zero width
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u206f"  # bidirectional overrides and isolates
    "\ud800-\udfff"  # unpaired surrogates, which no encoder accepts
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
"""Joiners (U+200C, U+200D) are not included: scripts and emoji need them."""
_ANY: Final = re.compile(f"[{_INVISIBLE}]")
_BUT_LINES: Final = re.compile(f"(?![\n\t])[{_INVISIBLE}]")
MAX_TITLE: Final = 600
"""Characters of a row's title: two ids."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str, *, lines: bool = False) -> str:
    r"""*text* with invisible characters escaped: ``\x1b``, ``\u202e``, ``\n``.

    With *lines*, line feeds and tabs stay: for blocks of text. ``\r`` never does, because a
    terminal writes over the line after it.
    """
    if text.isprintable():
        return text
    return (_BUT_LINES if lines else _ANY).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_json(value: object, *, ascii_only: bool = False) -> str:
    """Indented JSON for people and machines; invisible characters get JSON's own escapes.

    With *ascii_only*, so does every other that is not ASCII: for what takes nothing else.
    """
    text = dumps(value, indent=2, ensure_ascii=ascii_only, default=str)
    return _BUT_LINES.sub(lambda found: dumps(found[0])[1:-1], text)


def is_storable(text: str) -> bool:
    """Whether every database can store it: PostgreSQL refuses to compare other texts."""
    return "\x00" not in text and (text.isascii() or not _SURROGATE.search(text))


def cut(text: str, most: int, *, of: int | None = None) -> str:
    """At most *most* characters of *text*, and its length: *of*, if only part was read."""
    length = len(text) if of is None else of
    return text if length <= most else f"{text[:most]}\n… ({length:,} characters in all)"


def get_logger(name: str) -> logging.Logger:
    """A module's logger that ids and texts in its arguments cannot use to forge lines."""
    logger = logging.getLogger(name)
    if _escape_record not in logger.filters:
        logger.addFilter(_escape_record)
    return logger


def _escape_record(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(_escaped(one) for one in record.args)
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        _escape_traceback(record, record.exc_info[1])
    return True


def _escaped(argument: Any) -> Any:
    """The argument itself if there is nothing to escape: formats and handlers may use it."""
    if argument is None or isinstance(argument, int | float):
        return argument
    text = str(argument)
    shown = visible(text)
    return argument if shown == text else shown


def _escape_traceback(record: logging.LogRecord, error: BaseException) -> None:
    """Set the record's traceback text if an exception's message could forge lines."""
    messages = [text for text in map(_text_of, _chain(error)) if not text.isprintable()]
    if not messages:
        return  # formatters may show it as they like
    text = "".join(format_exception(error)).rstrip("\n")
    for message in messages:
        text = text.replace(message, visible(message, lines=True).replace("\n", "\n    | "))
    record.exc_text = visible(text, lines=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def _text_of(error: BaseException) -> str:
    return attempt(lambda: str(error), "")  # its class is user code; the traceback shows the error
