"""Ask several databases: one that cannot be reached must not hide what the others say."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from django.db import Error
from django.utils.translation import gettext as _

from general_manager.escaping import get_logger, visible

logger = get_logger(__name__)

T = TypeVar("T")


class Reach:
    """Asks databases, and remembers those that did not answer."""

    def __init__(self) -> None:
        self.away: dict[str, str] = {}
        """Why each of them did not answer, by alias."""
        self._error: Error | None = None

    def read(self, alias: str, ask: Callable[[], Iterable[T]]) -> list[T]:
        """What the database answers; nothing if it does not answer, or did not before."""
        found = list(self.each(alias, ask))
        return [] if alias in self.away else found

    def each(self, alias: str, ask: Callable[[], Iterable[T]]) -> Iterator[T]:
        """One after the other, until the database does not answer."""
        if alias in self.away:
            return
        try:
            yield from ask()
        except Error as error:
            logger.warning("Database %r cannot be reached: %s", alias, error)
            lines = str(error).strip().splitlines()
            self.away[alias] = lines[0].rstrip(".") if lines else type(error).__name__
            self._error = self._error or error

    def fail_if_none(self, aliases: Iterable[str]) -> None:
        """Raise the first error if none of these databases answered."""
        if self._error is not None and set(aliases) <= set(self.away):
            raise self._error

    def in_words(self) -> str:
        """A sentence for each database that did not answer; empty if all did."""
        text = _("Database %(name)r cannot be reached: %(reason)s.")
        said = (text % {"name": name, "reason": why} for name, why in self.away.items())
        return visible(" ".join(said))
