"""Whoever acts in the demo's story: a visitor of the site, or in local mode this very process."""

from collections.abc import Callable
from decimal import Decimal
from http.cookiejar import CookieJar
from typing import Protocol
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

from django.urls import reverse

from general_manager.workflow import get_workflow_engine
from projects.models import Project
from projects.services import request_budget


class Actor(Protocol):
    def activate(self, project: Project) -> None: ...
    def ask_for_budget(self, project: Project, amount: Decimal) -> None: ...
    def answer(self, execution_id: str, *, approved: bool) -> None: ...


class Here:
    """Calls the code that the site's views call."""

    def activate(self, project: Project) -> None:
        project.update(status="active")

    def ask_for_budget(self, project: Project, amount: Decimal) -> None:
        request_budget(project, amount, asked_by="ada")

    def answer(self, execution_id: str, *, approved: bool) -> None:
        get_workflow_engine().resume(execution_id, {"approved": approved, "by": "the boss"})


class Visitor:
    """Presses the buttons of the site, as a browser does: over HTTP, with cookies and tokens."""

    def __init__(self, port: int, say: Callable[[str], object]) -> None:
        self._address = f"http://127.0.0.1:{port}"
        self._say = say
        self._cookies = CookieJar()
        self._opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(self._cookies))
        path = reverse("admin:login")
        self._opener.open(self._address + path).close()  # for the token
        self._post(path, username="admin", password="admin", next="/")

    def activate(self, project: Project) -> None:
        self._post(reverse("projects:activate", args=[project.id]))

    def ask_for_budget(self, project: Project, amount: Decimal) -> None:
        self._post(reverse("projects:request-budget", args=[project.id]), amount=str(amount))

    def answer(self, execution_id: str, *, approved: bool) -> None:
        button = "approve" if approved else "refuse"
        self._post(reverse("projects:answer", args=[execution_id]), **{button: ""})

    def _post(self, path: str, **form: str) -> None:
        (token,) = [one.value for one in self._cookies if one.name == "csrftoken"]
        body = urlencode({**form, "csrfmiddlewaretoken": token}).encode()
        with self._opener.open(self._address + path, body) as answer:
            self._say(f"     {'request':<12} POST {path}  {answer.status} {answer.reason}")
