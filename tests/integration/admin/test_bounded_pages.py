"""A page does not grow with the longest text that is stored, nor does a cell of an export."""

import re

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import connection

from general_manager.workflow.models import WorkflowEventRecord
from tests.integration.admin.test_walk import (
    PAYLOADS,
    TABLES,
    TEXTS,
    few_urls,
    fill,
    lists,
    read,
)
from tests.integration.admin.urls_scoped import MINE

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

LARGE = 3_000_000


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores ids of any length")
def test_i9_no_page_grows_with_what_is_stored(client):
    for number, text in enumerate(TEXTS.values()):
        fill(text, MINE, number, PAYLOADS[number])
    client.force_login(get_user_model().objects.create_superuser("boss"))
    big = "x\n" * (LARGE // 2)
    for model in TABLES:
        key = model._default_manager.earliest("pk").pk
        row = model._default_manager.filter(pk=key)
        names = [
            one.name
            for one in model._meta.concrete_fields
            if one.get_internal_type() in ("CharField", "TextField") and not one.choices
        ]
        row.update(**dict.fromkeys(names, big))
    fields = {f"field{number}": {"old": 1, "new": big[:100]} for number in range(100_000)}
    last = WorkflowEventRecord.objects.latest("pk")
    last.payload = {"manager": big, "identification": {"id": big}, "changes": fields}
    last.save()
    for url in few_urls(admin.site, "/admin/"):
        assert len(read(client.get(url))) < 1_500_000, url
    for url in lists()[1:]:
        keys = list(range(1, 200))
        sent = {"action": "export_as_csv", "select_across": "1", "_selected_action": keys}
        cells = max(map(len, re.findall(r'"(?:[^"]|"")*"', read(client.post(url, sent)))))
        assert cells < 70_000, url
