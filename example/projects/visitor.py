"""The actor of the demo's scenario: a visitor of the site, or in local mode this process."""

from collections.abc import Callable
from decimal import Decimal
from http.cookiejar import CookieJar
from json import dumps
from typing import Protocol
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

from django.conf import settings
from django.urls import reverse

from general_manager.workflow import get_workflow_engine
from projects.models import Project
from projects.services import report_payment, request_budget, send_invoice


class Actor(Protocol):
    def activate(self, project: Project) -> None: ...
    def ask_for_budget(self, project: Project, amount: Decimal) -> None: ...
    def answer(self, execution_id: str, *, approved: bool) -> None: ...
    def send_invoice(self, project: Project) -> None: ...
    def pay(self, number: str, amount: str) -> None: ...


class Here:
    """Calls the same code as the site's views."""

    def activate(self, project: Project) -> None:
        project.update(status="active")

    def ask_for_budget(self, project: Project, amount: Decimal) -> None:
        request_budget(project, amount, asked_by="ada")

    def answer(self, execution_id: str, *, approved: bool) -> None:
        get_workflow_engine().resume(execution_id, {"approved": approved, "by": "the boss"})

    def send_invoice(self, project: Project) -> None:
        send_invoice(project, Decimal(900))

    def pay(self, number: str, amount: str) -> None:
        report_payment(number, amount)


class Visitor:
    """Presses the site's buttons over HTTP, with cookies and tokens, like a browser."""

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

    def send_invoice(self, project: Project) -> None:
        self._post(reverse("projects:send-invoice", args=[project.id]))

    def pay(self, number: str, amount: str) -> None:
        """As the bank does, without cookies."""
        path, token = reverse("projects:payment-received"), settings.PAYMENT_WEBHOOK_TOKEN
        body = dumps({"invoice": number, "amount": amount}).encode()
        bank = build_opener(ProxyHandler({}))
        bank.addheaders = [("Authorization", f"Bearer {token}")]
        with bank.open(self._address + path, body) as answer:
            self._say(f"     {'webhook':<12} POST {path}  {answer.status} {answer.reason}")

    def _post(self, path: str, **form: str) -> None:
        (token,) = [one.value for one in self._cookies if one.name == "csrftoken"]
        body = urlencode({**form, "csrfmiddlewaretoken": token}).encode()
        with self._opener.open(self._address + path, body) as answer:
            self._say(f"     {'request':<12} POST {path}  {answer.status} {answer.reason}")
