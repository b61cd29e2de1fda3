"""What our commands share: kinds of arguments, words on the way, one way to fail."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime, timedelta
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


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def count_up_to(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if count(text) > most:
            raise ArgumentTypeError(f"{text} is more than {most:,}")
        return int(text)

    return parse


def age(text: str) -> timedelta:
    try:
        return parse_age(text)
    except WrongValue as wrong:
        raise ArgumentTypeError(f"{text!r} is not {wrong}") from None


def moment(text: str) -> datetime:
    """A date, a time, or how long ago that was."""
    found: datetime | None = None
    try:
        found = parse_datetime(text)
        day = None if found else parse_date(text)
        if day is not None:
            found = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - made aware below
    except ValueError:
        pass
    if found is None:
        try:
            return timezone.now() - parse_age(text)
        except (WrongValue, OverflowError):
            raise ArgumentTypeError(
                f"{text!r} is neither a date and time, as in 2026-01-31 or 2026-01-31T12:00, "
                "nor how long ago, as in 2h"
            ) from None
    return timezone.make_aware(found) if timezone.is_naive(found) else found
