"""What our commands share: kinds of arguments, words on the way, one way to fail."""

from argparse import Action, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from general_manager.escaping import visible, visible_json
from general_manager.parsing import WrongValue
from general_manager.parsing import age as parse_age
from general_manager.workflow.actors import acting_as

CANNOT_ASK: Final = 2
"""The exit code of a command that could not reach the database or read the settings."""

WORD_EVERY: Final = 10.0
"""Seconds between two lines on the way, where they cannot replace each other."""


class WorkflowCommand(BaseCommand):
    """What it changes is recorded as done by ``manage.py`` and the command's name."""

    def handle(self, *_: Any, **options: Any) -> None:
        options |= dict(self._parsed(options))
        self._said = monotonic()
        self._is_open = False
        self._is_quiet = options["verbosity"] == 0
        try:
            with acting_as(f"manage.py {self.name}"):
                self.act(options)
        except Error as error:
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise CommandError(
                f"The database could not be asked: {visible(reason, lines=True)}. "
                "Is it there, and migrated?",
                returncode=CANNOT_ASK,
            ) from error
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=CANNOT_ASK) from error

    def _parsed(self, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Our options as the command line gives them, whatever `call_command` was given.

        Django parses only texts of a command line. Raises `CommandError` that names the option.
        """
        parser = CommandParser(prog=self.name, add_help=False)
        self.add_arguments(parser)
        for action in parser._actions:  # noqa: SLF001 - as Django's call_command does
            name = max(action.option_strings, key=len, default=action.dest)
            try:
                yield action.dest, _parse(action, options.get(action.dest))
            except ArgumentTypeError as error:
                raise CommandError(f"{name}: {error}") from None

    def act(self, options: dict[str, Any]) -> None:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.__module__.rpartition(".")[2]

    def say_on_the_way(self, text: str) -> None:
        """How far it is: one line that is overwritten, or now and then a line of plain text."""
        if self._is_quiet:
            return
        if self.stdout.isatty():
            self.stdout.write(f"\r\x1b[2K{text}", ending="")
            self.stdout.flush()
            self._is_open = True
        elif monotonic() - self._said > WORD_EVERY:
            self._said = monotonic()
            self.stdout.write(text)

    def say(self, text: str = "") -> None:
        if self._is_open:
            self.stdout.write("\r\x1b[2K", ending="")
            self._is_open = False
        self.stdout.write(text)

    def say_json(self, value: object) -> None:
        self.stdout.write(visible_json(value))


def add_format(parser: CommandParser) -> None:
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people or for machines"
    )


def _parse(action: Action, value: Any) -> Any:
    if value is None:
        value = action.default
        return action.type(value) if isinstance(value, str) and callable(action.type) else value
    if action.nargs == 0:  # a flag
        if not isinstance(value, bool):
            raise ArgumentTypeError(f"{value!r} is neither True nor False")
        return value
    if action.choices is not None and value not in action.choices:
        raise ArgumentTypeError(f"{value!r} is not one of {', '.join(map(str, action.choices))}")
    return action.type(value) if callable(action.type) else _text(value)


MOST: Final = 2**31 - 1
LONGEST: Final = timedelta(days=36_500)


def count(value: str | int) -> int:
    """From the command line a text; `call_command` may be given the number itself."""
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ArgumentTypeError(f"{value!r} is not a whole number from 1 up")
    if number > MOST:
        raise ArgumentTypeError(f"{value} is more than {MOST:,}")
    return number


def count_up_to(most: int) -> Callable[[str | int], int]:
    def parse(value: str | int) -> int:
        number = count(value)
        if number > most:
            raise ArgumentTypeError(f"{value} is more than {most:,}")
        return number

    return parse


def age(value: str | timedelta) -> timedelta:
    """A duration as people type it, or a `timedelta`."""
    if isinstance(value, timedelta):
        found = value
        if found <= timedelta(0):
            raise ArgumentTypeError(f"{value} is not more than nothing")
    else:
        try:
            found = parse_age(_text(value))
        except WrongValue as wrong:
            raise ArgumentTypeError(f"{value!r} is not {wrong}") from None
    if found > LONGEST:
        raise ArgumentTypeError(f"{value} is more than {LONGEST.days:,} days")
    return found


def moment(value: str | date | timedelta) -> datetime:
    """A date, a time, or how long ago that was."""
    try:
        return _moment(value)
    except OverflowError:
        raise ArgumentTypeError(f"{value} is a time that no calendar has") from None


def _moment(value: str | date | timedelta) -> datetime:
    if isinstance(value, timedelta):
        return timezone.now() - age(value)
    found = value if isinstance(value, date) else None
    if not isinstance(value, date):
        with suppress(ValueError):
            found = parse_datetime(_text(value)) or parse_date(value)
    if found is None:
        try:
            return timezone.now() - parse_age(_text(value))
        except (WrongValue, OverflowError):
            raise ArgumentTypeError(
                f"{value!r} is neither a date and time, as in 2026-01-31 or 2026-01-31T12:00, "
                "nor how long ago, as in 2h"
            ) from None
    if not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day)  # noqa: DTZ001 - made aware below
    if timezone.is_naive(found):
        found = timezone.make_aware(found)
    return found.astimezone(UTC)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{value!r} is not text")
    return value
