"""A site on a real PostgreSQL; the project's processes are real everywhere in this folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Postgres, postgres_uri, start_broker
from tests.sites import Site


@contextmanager
def opened_site(folder: Path, **options: Any) -> Iterator[Site]:
    """A site with a broker of its own, on the PostgreSQL that the environment names, or its own."""
    with ExitStack() as stack:
        broker = start_broker(folder)
        stack.callback(broker.close)
        options.setdefault("postgres", os.environ.get("TEST_POSTGRES_URI") or postgres_uri())
        site = Site(folder, broker, **options)
        stack.callback(site.stop)
        yield site


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Opens the test's site with the options of `Site`; it is closed at the end."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> Site:
            return stack.enter_context(opened_site(tmp_path, **options))

        yield open_one


@pytest.fixture
def site(open_site: Callable[..., Site]) -> Site:
    return open_site()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server that the test may stop."""
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
def report(request, capfd, record_property):
    """Tell a number that no test can demand, where it is read."""
    terminal = request.config.pluginmanager.getplugin("terminalreporter")

    def report_one(what, value):
        record_property(what, value)
        with capfd.disabled():
            terminal.ensure_newline()
            terminal.write_line(f"{what}: {value}")

    return report_one
