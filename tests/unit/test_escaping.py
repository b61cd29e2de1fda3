"""What stored texts may do to a terminal, a log line or a page: nothing."""

import json
import logging
from pathlib import Path

import pytest

import general_manager
from general_manager.escaping import cut, get_logger, is_storable, visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 日本語, שלום, नमस्ते", "Grüße, 日本語, שלום, नमस्ते"),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("invoice\u202etxt.exe", r"invoice\u202etxt.exe"),
        ("\u2066\u2069\u200e\u200f\u061c", r"\u2066\u2069\u200e\u200f\u061c"),
        ("zero\u200bwidth\ufeff\xad", r"zero\u200bwidth\ufeff\xad"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\ud800 alone", r"\ud800 alone"),
        ("tags\U000e0041", r"tags\U000e0041"),
        ("no-break\xa0and\u3000wide", "no-break\xa0and\u3000wide"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_an_escape(text, shown):
    assert visible(text) == shown
    visible(text).encode()


def test_a_block_of_text_keeps_its_lines_and_nothing_that_moves_a_cursor():
    assert visible("a\n\tb\r\x1b[A", lines=True) == "a\n\tb" + r"\r\x1b[A"


def test_what_is_cut_says_how_long_it_is():
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "abc\n… (4 characters in all)"
    assert cut("abc", 3, of=1_000_000) == "abc\n… (1,000,000 characters in all)"


def test_json_for_a_terminal_is_the_same_json():
    value = {"a\x9b": "\u202e\ud800\x1b\U000e0001 é\n"}
    text = visible_json(value)
    assert json.loads(text) == value
    assert "é" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(("text", "is_it"), [("é🙂", True), ("a\x00b", False), ("\ud800", False)])
def test_what_no_database_could_hold_is_known(text, is_it):
    assert is_storable(text) is is_it


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, logger="general_manager")
    return lambda: [logging.Formatter("%(message)s").format(one) for one in caplog.records]


def test_a_log_line_cannot_be_forged_by_what_is_logged(lines):
    logger = get_logger("general_manager.tests")
    logger.warning("Event %s failed %d times in %.1f s", "1\n2026 INFO all is well\x1b[A", 3, 0.5)
    assert lines() == [r"Event 1\n2026 INFO all is well\x1b[A failed 3 times in 0.5 s"]


def test_an_objects_own_text_is_escaped_in_a_log_line(lines):
    class Registration:
        def __str__(self):
            return "\u202ehandler"

    get_logger("general_manager.tests").warning("%s failed for %s", Registration(), None)
    assert lines() == [r"\u202ehandler failed for None"]


def test_a_traceback_keeps_its_lines_and_an_exceptions_message_makes_none_of_its_own(lines):
    logger = get_logger("general_manager.tests")
    try:
        try:
            raise ValueError("first\n2026-01-01 INFO forged\x1b[2J")
        except ValueError as error:
            raise RuntimeError("second\u202e") from error
    except RuntimeError:
        logger.exception("It failed")
    [text] = lines()
    assert "\n2026-01-01" not in text
    assert "    | 2026-01-01 INFO forged\\x1b[2J" in text
    assert r"second\u202e" in text
    assert "\nTraceback (most recent call last):\n" in text


def test_an_ordinary_traceback_is_left_to_the_formatter(caplog):
    try:
        raise ValueError("plain")
    except ValueError:
        get_logger("general_manager.tests").exception("It failed")
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_text is None or "plain" in caplog.records[0].exc_text


def test_an_exception_that_cannot_be_shown_is_still_logged(lines):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    try:
        raise Odd
    except Odd:
        get_logger("general_manager.tests").exception("It failed")
    assert "It failed" in lines()[0]


def test_every_logger_of_ours_escapes():
    package = Path(general_manager.__file__).parent
    others = [
        path.name
        for path in package.rglob("*.py")
        if "getLogger" in path.read_text() and path.name != "escaping.py"
    ]
    assert others == []
    assert len(get_logger("general_manager.tests").filters) == 1
