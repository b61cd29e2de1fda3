"""Run with ``manage.py test projects``."""

from decimal import Decimal

from django.core import mail
from django.test import TestCase, override_settings
from django.urls import reverse

from general_manager.workflow import get_workflow_engine
from general_manager.workflow.testing import drain
from projects.executions import all_executions
from projects.models import Project
from projects.sample_data import create_sample_data
from projects.services import send_invoice
from projects.workflows import NIGHTLY_SUMMARY

WEBHOOK = reverse("projects:payment-received")
BANK = {"headers": {"Authorization": "Bearer of the bank"}, "content_type": "application/json"}


@override_settings(
    PAYMENT_WEBHOOK_TOKEN="of the bank",
    EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
)
class PaymentTests(TestCase):
    def setUp(self) -> None:
        create_sample_data()
        self.number = send_invoice(Project.get(name="Apollo"), Decimal(900))

    def pay(self, number: str, **options: object) -> int:
        payment = {"invoice": number, "amount": "900"}
        return self.client.post(WEBHOOK, payment, **{**BANK, **options}).status_code

    def invoice(self) -> object:
        drain()
        (execution,) = [one for one in all_executions() if one.correlation_id == self.number]
        return get_workflow_engine().status(execution.execution_id).output_data

    def test_a_payment_that_the_bank_reports_completes_the_invoice(self) -> None:
        assert self.invoice() is None
        assert self.pay(self.number) == 202
        assert self.invoice() == {"paid": "900"}
        assert self.pay(self.number) == 409

    def test_nobody_else_reports_a_payment(self) -> None:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer of a thief"}):
            assert self.pay(self.number, headers=headers) == 401
        assert self.invoice() is None

    def test_an_unknown_invoice_is_not_found(self) -> None:
        assert self.pay("nonsense") == 404

    def test_a_payment_names_an_invoice_and_an_amount(self) -> None:
        for body in ("{", "[]", "{}", '{"invoice": "", "amount": 1}'):
            response = self.client.post(WEBHOOK, body, **BANK)
            assert response.status_code == 400, body


@override_settings(EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend")
class NightlySummaryTests(TestCase):
    def test_the_boss_hears_of_each_active_project(self) -> None:
        create_sample_data()
        for project in Project.all():
            project.update(status="active")
        names = sorted(one.name for one in Project.all())
        get_workflow_engine().start(NIGHTLY_SUMMARY, {"slot": "2026-11-30T02:00:00+00:00"})
        drain()
        (letter,) = [one for one in mail.outbox if one.subject == "Projects on 2026-11-30"]
        first, *lines = letter.body.splitlines()
        assert first == f"{len(names)} of them are active."
        assert sorted(line.split(" has ")[0] for line in lines) == names
