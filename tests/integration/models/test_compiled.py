"""Compiled statements: they give what the ORM gives, and several run as one."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import CharField
from django.test.utils import CaptureQueriesContext

from general_manager.workflow import WorkflowDefinition
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.models.executions.statements import (
    WITH_ID,
)
from general_manager.workflow.models.sql.columns import Ago
from general_manager.workflow.models.sql.compiled import (
    CompiledSelect,
    CompiledUpdate,
    Slot,
    inserting,
    run_together,
    together,
)
from tests.testapp import flows

pytestmark = pytest.mark.django_db(transaction=True)

executions = WorkflowExecutionRecord.objects
RENAME: CompiledUpdate[Any] = CompiledUpdate(
    lambda rows: (rows.filter(execution_id=Slot("id")), {"workflow_id": Slot("to", CharField())})
)


@pytest.fixture
def record(celery_engine):
    about = {"n": 1, "ü": ["1", None]}
    started = celery_engine.start(
        WorkflowDefinition("w", handler=flows.wait_once), about, metadata={"by": "me"}
    )
    return executions.get(execution_id=started.execution_id)


def noting(record: Any, detail: str, **more: Any) -> Any:
    values = {"kind": "resumed", "execution": record.pk, "detail": detail, **more}
    return inserting(WorkflowHistory, values, "default")


def renaming(record: Any, name: str, *, execution_id: str = "") -> Any:
    return RENAME.statement(executions.all(), id=execution_id or record.execution_id, to=name)


def details() -> list[str]:
    return sorted(WorkflowHistory.objects.values_list("detail", flat=True))


def test_a_compiled_select_gives_the_instance_that_the_orm_gives(record):
    for _ in range(2):
        [found] = WITH_ID.rows(executions.all(), "", execution_id=record.execution_id)
        assert vars(found) | {"_state": None} == vars(record) | {"_state": None}
        assert (found._state.db, found._state.adding) == ("default", False)
    assert WITH_ID.rows(executions.all(), "", execution_id="nobody") == []


def test_a_compiled_select_gives_the_values_that_the_orm_gives(record):
    names = ("execution_id", "input_data", "created_at", "ready")
    select: CompiledSelect[Any] = CompiledSelect(
        lambda rows: rows.filter(execution_id=Slot("id")).values_list(*names)
    )
    rows = select.rows(executions.all(), id=record.execution_id)
    assert rows == [tuple(getattr(record, one) for one in names)]


def test_writes_that_run_together_are_one_statement_on_postgresql(record):
    with CaptureQueriesContext(connection) as seen, together("default"):
        assert run_together("default", renaming(record, "x"), noting(record, "y")) is True
    assert executions.get().workflow_id == "x"
    assert details() == ["y"]
    if connection.vendor == "postgresql":
        assert len(seen) == 1


def test_nothing_is_written_together_with_a_write_that_matches_no_row(record):
    others = (renaming(record, "z"), noting(record, "y"))
    with transaction.atomic():
        nobody = renaming(record, "x", execution_id="nobody")
        assert run_together("default", nobody, *others) is False
    assert executions.get().workflow_id == "w"
    assert details() == []


def test_writes_that_run_together_are_undone_together(record):
    broken = inserting(WorkflowHistory, {"kind": None, "execution": record.pk}, "default")
    with pytest.raises(IntegrityError), transaction.atomic():
        run_together("default", renaming(record, "x"), noting(record, "y"), broken)
    assert executions.get().workflow_id == "w"
    assert details() == []


def test_a_row_that_is_there_is_left_as_it_is(record):
    values = {
        "execution": record.pk,
        "name": "a",
        "status": "open",
        "until": Ago(-timedelta(days=1)),
    }
    opening = inserting(WorkflowStep, values, "default", unless=("execution", "name"))
    again = inserting(
        WorkflowStep, {**values, "until": None}, "default", unless=("execution", "name")
    )
    with transaction.atomic():
        run_together("default", renaming(record, "x"), opening)
    if connection.vendor == "mysql":
        with pytest.raises(IntegrityError), transaction.atomic():
            run_together("default", renaming(record, "y"), again)
    else:
        run_together("default", renaming(record, "y"), again)
    row = WorkflowStep.objects.get()
    assert row.until is not None
    assert row.until - row.started_at > timedelta(hours=23)
