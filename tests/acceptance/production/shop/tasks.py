"""The same ten effects as plain Celery tasks, to be measured beside the workflow."""

from typing import Any

from celery import shared_task
from django.db import transaction

from tests.acceptance.production.shop.effects import tell_the_world, ten_effects


@shared_task
def plain(input_data: dict[str, Any]) -> None:
    ten_effects(input_data)
    tell_the_world(f"{input_data['n']} done")


@shared_task(acks_late=True, reject_on_worker_lost=True)
def acknowledged_late(input_data: dict[str, Any]) -> None:
    ten_effects(input_data)
    tell_the_world(f"{input_data['n']} done")


@shared_task(acks_late=True, reject_on_worker_lost=True)
def in_one_transaction(input_data: dict[str, Any]) -> None:
    with transaction.atomic():
        ten_effects(input_data)
    tell_the_world(f"{input_data['n']} done")
