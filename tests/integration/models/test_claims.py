"""A claim whose answer was lost belongs to the process that made it, and to nobody else."""

import pytest
from django.db import OperationalError, transaction

from general_manager.workflow.models.sql.claims import claim_surely

pytestmark = pytest.mark.django_db(transaction=True)


def lose_the_answer():
    raise OperationalError("the server closed the connection unexpectedly")


def test_what_was_claimed_is_found_though_the_answer_was_lost():
    assert claim_surely("default", lose_the_answer, lambda: "mine") == "mine"


def test_the_trouble_comes_out_where_nothing_was_claimed():
    with pytest.raises(OperationalError, match="closed the connection"):
        claim_surely("default", lose_the_answer, lambda: None)


def test_nothing_is_looked_for_in_a_transaction_that_is_broken():
    asked = []
    with pytest.raises(OperationalError, match="closed"), transaction.atomic():
        claim_surely("default", lose_the_answer, lambda: asked.append(1))
    assert asked == []
