"""Sets up the example from scratch, plays a scenario, and serves the site."""

import platform
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from general_manager.conf import get_workflow_settings
from general_manager.workflow import (
    WorkflowEvent,
    get_event_registry,
)
from general_manager.workflow.workers import timer
from projects.executions import all_executions
from projects.models import DeadLetter, Project
from projects.narrator import Narrator, RowNarrator
from projects.processes import shown, web_worker_and_beat
from projects.sample_data import create_sample_data
from projects.servers import servers
from projects.visitor import Actor, Here, Visitor


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--no-serve",
            action="store_true",
            help="end after the scenario instead of serving the site",
        )
        parser.add_argument(
            "--production",
            action="store_true",
            help="store events and executions, and run them in a worker with Beat",
        )
        parser.add_argument(
            "--in-process",
            action="store_true",
            help="store events and executions, and run them in this process without a broker",
        )
        parser.add_argument(
            "--servers",
            action="store_true",
            help="like --production, with a PostgreSQL and a Redis started for the demo",
        )
        parser.add_argument(
            "--port", type=int, default=8000, help="port of the site (default: 8000)"
        )

    def handle(self, *, no_serve: bool, port: int, **_: Any) -> None:
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit(143)
        )  # so that started processes are ended
        try:
            with ExitStack() as stack:
                stack.enter_context(alone(Path(settings.VAR_DIR)))
                self.show(stack, port, will_serve=not no_serve and sys.stdin.isatty())
        except KeyboardInterrupt:
            sys.exit(130)
        if not no_serve and not sys.stdin.isatty():
            self.say("In a terminal the demo would serve the site now.")

    def show(self, stack: ExitStack, port: int, *, will_serve: bool) -> None:
        if will_serve and not is_free(port):
            raise CommandError(f"Port {port} is in use. Choose another with --port.")
        mode = get_workflow_settings().mode
        has_workers = get_workflow_settings().run_async
        where = " in one process" if mode == "production" and not has_workers else ""
        self.say(
            f"general_manager demo: {mode} mode{where}, Django {django.get_version()}, "
            f"Python {platform.python_version()}"
        )
        if settings.SERVERS_DIR:
            log = settings.VAR_DIR / "redis.log"
            stack.enter_context(servers(Path(settings.SERVERS_DIR), log, self.say))
            stack.callback(connection.close)
        self.prepare()
        self.rows = RowNarrator(self.say)
        self.actor: Actor = Here()
        if has_workers:
            serving = port if will_serve else free_port()
            web = stack.enter_context(web_worker_and_beat(serving, self.say))
            self.actor = Visitor(serving, self.say)
            self.rows.tell_news()
            self.tell()
        elif mode == "production":
            timer.start()  # a web server has one by default; this command lives as long
            stack.callback(timer.stop)
            self.rows.tell_news()
            self.tell()
        else:
            with Narrator(self.say).listening():
                self.tell()
        self.check_the_end()
        kept = "logs" if settings.SERVERS_DIR else "database, the logs"
        self.say(f"\nThe {kept} and the mails are in {shown(Path(settings.VAR_DIR))}.")
        if will_serve:
            self.say_where(port)
            if has_workers:
                with suppress(KeyboardInterrupt):
                    web.wait()
            else:
                connection.close()
                call_command("runserver", f"127.0.0.1:{port}", use_reloader=False)
        else:
            self.say("The demo has ended.")

    def prepare(self) -> None:
        self.say("Setting up a new database ...")
        connection.close()  # system checks may have opened the old one
        for path in Path(settings.VAR_DIR).glob("company.sqlite3*"):
            path.unlink()
        for left_over in ("mails/*.log", "broker/*.msg*", "beat-schedule*"):
            for path in Path(settings.VAR_DIR).glob(left_over):
                path.unlink()
        call_command("migrate", verbosity=0)
        create_sample_data()
        self.say(f"{Project.all().count()} projects; the admin account is admin / admin.")

    def tell(self) -> None:
        apollo = Project.get(name="Apollo")
        self.chapter('Ada activates her project: project.update(status="active")')
        self.actor.activate(apollo)
        self.wait_for(project_status_email="completed")
        self.chapter("The name changes; no handler matches")
        Project(id=apollo.id).update(name="Apollo 11")
        self.rows.tell_news()
        self.chapter("A service publishes explicitly: request_budget(project, 4000)")
        self.actor.ask_for_budget(apollo, Decimal(4000))
        self.wait_for(budget_approval="waiting")
        self.chapter("The same event again changes nothing")
        self.publish_again()
        self.chapter('The boss says yes: engine.resume(execution_id, {"approved": True})')
        (waiting,) = [one for one in all_executions() if one.state == "waiting"]
        self.actor.answer(waiting.execution_id, approved=True)
        self.wait_for(budget_approval="completed")
        self.chapter("An invoice waits for its payment; the bank's webhook sends a signal")
        self.actor.send_invoice(apollo)
        self.wait_for(project_invoice="waiting")
        (sent,) = [one for one in all_executions() if one.state == "waiting"]
        self.actor.pay(str(sent.correlation_id), "900")
        self.wait_for(project_invoice="completed")
        self.chapter("Another request; this one waits for your answer on the site")
        self.actor.ask_for_budget(Project.get(name="Canteen menu"), Decimal(150))
        self.wait_for(budget_approval="waiting")

    def publish_again(self) -> None:
        (waiting,) = [one for one in all_executions() if one.state == "waiting"]
        event = WorkflowEvent(
            str(waiting.correlation_id),
            "company.budget.requested",
            {"amount": "a million"},
            event_name="budget_requested",
        )
        before = len(all_executions())
        get_event_registry().publish(event)
        new = len(all_executions()) - before
        self.say(f"     published    {event.event_id[:8]} once more: {new} new executions")

    def wait_for(self, **states: str) -> None:
        """Wait until an execution of each workflow is in its state, in any process.

        In local mode it already is.
        """
        wanted = set(states.items())
        self.rows.until(
            lambda: wanted <= {(one.workflow_id, str(one.state)) for one in all_executions()}
        )

    def check_the_end(self) -> None:
        """The scenario is also a test: fail if it did not end as expected."""
        self.rows.until(DeadLetter.objects.exists)
        project = Project.get(name="Apollo 11")
        mails = len(list(Path(settings.MAIL_DIR).glob("*.log")))
        found = (project.status, project.budget, mails, DeadLetter.objects.count())
        if found != ("active", Decimal(16000), 6, 1):
            raise CommandError(f"The scenario did not end as expected: {found}")
        self.chapter("Result")
        self.say(f"     {project.name} is {project.status} with a budget of {project.budget};")
        self.say(f"     {mails} mails were sent, and accounting could not be notified.")

    def say_where(self, port: int) -> None:
        self.say("")
        self.say(f"  The site:  http://127.0.0.1:{port}/")
        self.say(f"  The admin: http://127.0.0.1:{port}/admin/  (admin / admin)")
        self.say("")
        self.say("Ctrl-C ends it.")

    def chapter(self, title: str) -> None:
        self.say(f"\n  *  {title}")

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock *folder* against other demos; the lock ends with the process in any case."""
    lock = sqlite3.connect(folder / "demo.lock", timeout=0, isolation_level=None)
    with closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            raise CommandError(
                f"Another demo is running in {shown(folder)}. End it first, with Ctrl-C where it "
                "runs."
            ) from None
        yield


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
