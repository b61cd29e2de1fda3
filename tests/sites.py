"""A project's processes over one database and one broker, each real, as in production."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener
from uuid import uuid4

from tests.servers import Broker, free_port, listens, wait_until

CHECKOUT = Path(__file__).parents[1]
FAR_TOO_LONG = 240
PROJECT = "tests.acceptance.production"
TAGS = "sorted(Tag.objects.values_list('name', flat=True))"
"""What handlers wrote; for `Site.until`."""
Process = subprocess.Popen[bytes]


class Site:
    """The project, its database and broker, and the processes that a test starts over them.

    The database is made of SQLite's files; or on the server at *postgres*, or on the machine's
    *mariadb*, where it is the site's own. `stop` ends the processes; the broker belongs to whoever
    made it.
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        *,
        postgres: str | None = None,
        mariadb: bool = False,
        settings: str = f"{PROJECT}.settings",
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.processes: list[Process] = []
        self.last_errors = ""
        self.models = ["tests.testapp.models", "general_manager.workflow.models"]
        self._marks = folder / "marks"
        self._marks.mkdir()
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": settings,
            "TEST_DATABASE_DIR": str(folder),
            "TEST_MARKS": str(self._marks),
            "TEST_BROKER": broker.url,
            "TEST_QUEUE": broker.queue,
            "PYTHONPATH": str(CHECKOUT),
        }
        self.environment.pop("TEST_DATABASE", None)
        if postgres:
            name = f"site_{uuid4().hex[:12]}"
            _create_databases(postgres, name)
            self.environment["TEST_DATABASE"] = "postgresql"
            self.environment["TEST_POSTGRES_URI"] = postgres
            self.environment["TEST_SITE_DATABASE"] = name
        if mariadb:
            name = f"site_{uuid4().hex[:12]}"
            _create_mariadb_databases(name)
            self.environment["TEST_DATABASE"] = "mariadb"
            self.environment["TEST_SITE_DATABASE"] = name
        self.web(
            "from django.core.management import call_command\n"
            "for alias in ('default', 'archive'):\n"
            "    call_command('migrate', verbosity=0, database=alias)"
        )

    def web(self, code: str) -> Any:
        """Run *code* in a process of the project; returns what it printed as JSON, if anything."""
        result = subprocess.run(
            [sys.executable, "-c", f"import django\ndjango.setup()\n{code}"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=FAR_TOO_LONG,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        self.last_errors = result.stderr
        return json.loads(result.stdout) if result.stdout.strip() else None

    def publish(self, name: str, count: int) -> None:
        """Publish *count* events called *name*, with the ids 0, 1, 2 and so on."""
        self.web(
            "from general_manager.workflow import *\n"
            "get_event_registry().publish_many("
            f"WorkflowEvent(str(n), 'a.b', {{}}, event_name={name!r}) for n in range({count}))"
        )

    def server(self) -> "WebServer":
        """A web server of the project."""
        port = free_port()
        address = f"127.0.0.1:{port}"
        self.start("web", "django", "runserver", "--noreload", address)
        wait_until(lambda: listens(port), "the web server", seconds=FAR_TOO_LONG)
        return WebServer(f"http://{address}")

    def worker(self, *arguments: str) -> Process:
        return self.start("worker", *self._worker(*arguments))

    def kept_worker(self) -> Process:
        """A worker that is started again when it ends with an error, as docs/deploy.md asks for.

        Celery 5.7 with Redis has ended one whose connection broke while it had messages: closing
        the broken connection a second time raised an `AttributeError`.
        """
        return self.start("worker", "tests.acceptance.keep", *self._worker())

    def _worker(self, *arguments: str) -> list[str]:
        name = f"w{len(self.processes)}-{self.broker.queue}@%h"
        return [
            "celery", "-A", PROJECT, "worker", "-c", "2", "-l", "INFO", "-n", name,
            "--without-gossip", "--without-mingle", "--without-heartbeat", *arguments,
        ]  # fmt: skip

    def beat(self, *arguments: str) -> Process:
        schedule = str(self.folder / f"beat{len(self.processes)}")
        return self.start(
            "beat", "celery", "-A", PROJECT, "beat", "-l", "INFO", "--pidfile=", "-s", schedule,
            *arguments,
        )  # fmt: skip

    def start(self, name: str, *module: str) -> Process:
        with (self.folder / f"{name}{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def freeze(self, process: Process) -> None:
        os.killpg(process.pid, signal.SIGSTOP)

    def thaw(self, process: Process) -> None:
        os.killpg(process.pid, signal.SIGCONT)

    def end(self, process: Process) -> None:
        """Let *process* finish what it is doing, and end."""
        process.terminate()
        process.wait(timeout=FAR_TOO_LONG)

    def mark(self, name: str) -> None:
        """Tell the project's processes something."""
        (self._marks / name).touch()

    def until_marked(self, name: str) -> None:
        """Wait until one of the project's processes tells something."""
        try:
            wait_until((self._marks / name).exists, name, seconds=FAR_TOO_LONG)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def ask(self, code: str, *, first: str = "") -> Any:
        """What *code*, an expression over the site's models, gives; *first* may call `ask()`."""
        imports = "".join(f"from {module} import *\n" for module in self.models)
        function = f"def ask():\n    return {code}\n"
        return self.web(f"{imports}{function}{first}import json\nprint(json.dumps(ask()))")

    def until(self, code: str, expected: object) -> None:
        """Ask until *code* gives *expected*, as JSON has it."""
        deadline = time.monotonic() + FAR_TOO_LONG
        loop = (
            f"import json, time\ndeadline = time.time() + {FAR_TOO_LONG - 5}\n"
            "def answer(): return json.loads(json.dumps(ask()))  # a tuple becomes a list\n"
            f"while answer() != {expected!r} and time.time() < deadline: time.sleep(0.1)\n"
        )
        found = self.ask(code, first=loop)
        assert found == expected, f"{found}\n{self.logs()}"
        assert time.monotonic() < deadline

    def logs(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in logs)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)


class WebServer:
    """Where a site is served."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = build_opener(ProxyHandler({}))  # it is here, whatever the machine's proxy

    def post(self, path: str, **form: object) -> Any:
        url, data = f"{self.address}{path}", urlencode(form).encode()
        with self._opener.open(url, data, timeout=FAR_TOO_LONG) as answer:
            return json.load(answer)


def _create_databases(server: str, name: str) -> None:
    from psycopg import connect

    with connect(server, autocommit=True) as connection:
        for alias in ("default", "archive"):
            connection.execute(f'CREATE DATABASE "{name}_{alias}"'.encode())


def _create_mariadb_databases(name: str) -> None:
    driver: Any = import_module("MySQLdb")  # only where such a server is
    server = driver.connect(
        host=os.environ.get("TEST_MARIADB_HOST", "127.0.0.1"),
        user=os.environ.get("TEST_MARIADB_USER", "root"),
        password=os.environ.get("TEST_MARIADB_PASSWORD", ""),
    )
    for alias in ("default", "archive"):
        server.query(f"CREATE DATABASE `{name}_{alias}` CHARACTER SET utf8mb4")
    server.close()
