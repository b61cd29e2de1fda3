"""Shared by our commands: argument types, progress lines, error handling."""

import os
from argparse import Action, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from general_manager.escaping import is_storable, visible, visible_json
from general_manager.parsing import WrongValue
from general_manager.parsing import age as parse_age
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.operations.reach import Reach

UNREACHABLE: Final = 2
"""Exit code if a database cannot be reached or the settings cannot be read."""

PROGRESS_SECONDS: Final = 10.0
"""Seconds between two progress lines, if they cannot overwrite each other."""


class WorkflowCommand(BaseCommand):
    """Records its changes as made by ``manage.py`` and the command's name."""

    _called_from_command_line = False  # Django sets it
    one_of: tuple[tuple[str, ...], ...] = ()
    """Options that exclude each other, also for `call_command`, which does not look."""

    def handle(self, *_: Any, **options: Any) -> None:
        options |= dict(self._parsed(options))
        self._said = monotonic()
        self._is_open = False
        self._is_quiet = options["verbosity"] == 0
        self._lost: OSError | None = None
        try:
            self._do(options)
        finally:
            self._flush()
        self._report_loss()

    def _do(self, options: dict[str, Any]) -> None:
        try:
            with acting_as(f"manage.py {self.name}"):
                self.act(options)
        except Error as error:
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise CommandError(
                f"The database query failed: {visible(reason, lines=True)}. "
                "Check that the database is running and migrated.",
                returncode=UNREACHABLE,
            ) from error
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=UNREACHABLE) from error

    def _parsed(self, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Our options, parsed as on the command line, also those given to `call_command`.

        Django itself parses only command-line texts. Raises a `CommandError` that names the option.
        """
        parser = CommandParser(prog=self.name, add_help=False)
        self.add_arguments(parser)
        given: dict[str, bool] = {}
        for action in parser._actions:  # noqa: SLF001 - Django's call_command reads it too
            name = _name_of(action)
            try:
                value = _parse(action, options.get(action.dest))
            except ArgumentTypeError as error:
                raise CommandError(f"{name}: {error}") from None
            given[name] = value != action.default
            yield action.dest, value
        for together in self.one_of:
            names = [one for one in together if given.get(one)]
            if len(names) > 1:
                raise CommandError(f"{' and '.join(names)} exclude each other.")

    def act(self, options: dict[str, Any]) -> None:
        raise NotImplementedError

    def end_without(self, reach: Reach, *, but: str = "What is shown is without it.") -> None:
        """Fail, after what could be done and said, if a database could not be asked."""
        if reach.away:
            text = f"{reach.in_words()} {but}"
            raise CommandError(text, returncode=UNREACHABLE)

    @property
    def name(self) -> str:
        return self.__module__.rpartition(".")[2]

    def say_progress(self, text: str) -> None:
        """Report progress: overwrite one line on a terminal, else print a line now and then."""
        if self._is_quiet:
            return
        if self.stdout.isatty():
            self._write(f"\r\x1b[2K{text}", ending="")
            self._flush()
            self._is_open = True
        elif monotonic() - self._said > PROGRESS_SECONDS:
            self._said = monotonic()
            self._write(text)

    def say(self, text: str = "") -> None:
        if self._is_open:
            self._write("\r\x1b[2K", ending="")
            self._is_open = False
        self._write(text)

    def say_json(self, value: object) -> None:
        text = visible_json(value)
        self._write(text if self._takes(text) else visible_json(value, ascii_only=True))

    def _takes(self, text: str) -> bool:
        """Whether the terminal or the file has these characters."""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True

    @property
    def _encoding(self) -> str:
        return getattr(self.stdout, "encoding", None) or "utf-8"

    def _write(self, text: str, ending: str | None = None) -> None:
        """Write *text*, unless nobody reads any more: the work goes on without."""
        if not self._takes(text):
            text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        self._try(lambda: self.stdout.write(text, ending=ending))

    def _flush(self) -> None:
        self._try(self.stdout.flush)

    def _report_loss(self) -> None:
        """As Unix tools do, say nothing if the reader has ended."""
        if self._lost is not None and not isinstance(self._lost, BrokenPipeError):
            reason = self._lost.strerror or str(self._lost)
            raise CommandError(f"The output could not be written: {reason}. What it tells is done.")

    def _try(self, write: Callable[[], object]) -> None:
        """Remember if the output is lost: its reader has ended, or the disk is full."""
        if self._lost is not None:
            return
        try:
            write()
        except OSError as error:
            self._lost = error
            if self._called_from_command_line:  # else Python tries once more at its exit, and fails
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stdout.fileno())
                os.close(nowhere)


def _name_of(action: Action) -> str:
    return max(action.option_strings, key=len, default=action.dest)


def add_format(parser: CommandParser) -> None:
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="output format (default: text)"
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


LARGEST_NUMBER: Final = 2**31 - 1
LONGEST: Final = timedelta(days=36_500)


def count(value: str | int) -> int:
    """A whole number: text from the command line, or a number given to `call_command`."""
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ArgumentTypeError(f"{value!r} is not a whole number of at least 1")
    if number > LARGEST_NUMBER:
        raise ArgumentTypeError(f"{value} is more than {LARGEST_NUMBER:,}")
    return number


def count_up_to(most: int) -> Callable[[str | int], int]:
    def parse(value: str | int) -> int:
        number = count(value)
        if number > most:
            raise ArgumentTypeError(f"{value} is more than {most:,}")
        return number

    return parse


def age(value: str | timedelta) -> timedelta:
    """A duration such as 30d or 12h, or a `timedelta`."""
    if isinstance(value, timedelta):
        found = value
        if found <= timedelta(0):
            raise ArgumentTypeError(f"{value} is not longer than 0")
    else:
        try:
            found = parse_age(_text(value))
        except WrongValue as wrong:
            raise ArgumentTypeError(f"{value!r} is not {wrong}") from None
    if found > LONGEST:
        raise ArgumentTypeError(f"{value} is more than {LONGEST.days:,} days")
    return found


def moment(value: str | date | timedelta) -> datetime:
    """A point in time: a date, a date and time, or an age such as 2h."""
    try:
        return _moment(value)
    except OverflowError:
        raise ArgumentTypeError(f"{value} is outside the range of dates") from None


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
                f"{value!r} is neither a date or time, such as 2026-01-31 or 2026-01-31T12:00, "
                "nor an age, such as 2h"
            ) from None
    if not isinstance(found, datetime):
        found = datetime.combine(found, time.min)
    if timezone.is_naive(found):
        found = timezone.make_aware(found)
    # Without USE_TZ, times in the database have no zone.
    has_zones = timezone.is_aware(timezone.now())
    return found.astimezone(UTC) if has_zones else timezone.make_naive(found)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{value!r} is not text")
    if not is_storable(value):
        raise ArgumentTypeError(f"{value!r} has characters that no database stores")
    return value
