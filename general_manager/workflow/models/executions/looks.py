"""Looks: whether a signal that was kept, or an event, settles the open wait of an execution.

A sender writes, commits, then looks. A look locks the one execution that waits, then reads the
signals in a new statement, so a signal and a wait cannot miss each other: a look either finds the
wait, or leaves `has_signals` on the row, and a run that opens a wait there looks itself. So a wait
costs no further statement without signals.
"""

from collections.abc import Collection, Mapping
from typing import Any

from django.db import transaction

from general_manager.workflow.durable.answers.sources import source_of
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.durable.renewal import RENEWED_AS
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.answers.taken import WorkflowTakenEvent
from general_manager.workflow.models.executions.ending import release_to_end
from general_manager.workflow.models.executions.statements import (
    END_DELAY,
    END_WAIT,
    SUSPEND,
    WITH_ID,
    Suspension,
    WaitEnd,
)
from general_manager.workflow.models.executions.taking import chain_of, take_first, take_signal
from general_manager.workflow.models.executions.values import (
    OPENING_FIELDS,
)
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.pruning import delete
from general_manager.workflow.models.signal import WorkflowSignal
from general_manager.workflow.models.sql.columns import Ago
from general_manager.workflow.models.sql.commits import bookkeeping
from general_manager.workflow.models.sql.compiled import (
    Statement,
    inserting,
    run_together,
    together,
)
from general_manager.workflow.models.timing import Opening


def find_newest(executions: Any, chain: str) -> Any:
    """The newest execution of the chain; `None` if it was pruned."""
    # A range, in the index's own order: otherwise a database may scan the latest rows.
    later = executions.filter(chain__gte=chain, chain__lte=chain).order_by("-chain", "-pk")
    return later.first() or executions.filter(execution_id=chain).first()


def end_wait(
    executions: Any,
    record: Any,
    kind: HistoryKind,
    answering: Statement,
    metadata: Mapping[str, Any] | None,
) -> bool:
    """See `ExecutionQuerySet.wait_ended`. Lock the execution before."""
    is_waiting = record.state == WorkflowState.WAITING
    how = WaitEnd(metadata is not None, is_waiting, record.priority if is_waiting else 0)
    goes_on = END_WAIT.statement(executions, how, key=record.pk, metadata=metadata)
    name = record.waiting_for or ""
    about = {"execution_id": record.pk, "detail": name, "step": name}
    return _write_and_note(executions, kind, about, answering, goes_on)


def end_delay(executions: Any, record: Any) -> bool:
    """See `ExecutionQuerySet.wake_now`. Lock the execution before."""
    waking = END_DELAY.statement(executions, record.priority, key=record.pk)
    ending = record.steps.using(executions.db).ending_delays(record)
    about = {"execution_id": record.pk}
    return _write_and_note(executions, HistoryKind.WOKEN, about, waking, ending)


def _write_and_note(
    executions: Any, kind: HistoryKind, about: Mapping[str, Any], *writes: Statement
) -> bool:
    """`run_together`, with an entry of the history."""
    history = WorkflowHistory.objects.using(executions.db)
    noting = history.noting(kind, **about)
    if noting is not None:
        return run_together(executions.db, *writes, noting)
    is_won = run_together(executions.db, *writes)
    if is_won:
        history.note(kind, **about)
    return is_won


def find_by_id(executions: Any, execution_id: str) -> Any:
    """The execution with that id, locked if *executions* lock; `None` if there is none."""
    query = executions.query
    if query.where or query.deferred_loading[0]:
        return executions.filter(execution_id=execution_id).first()
    lock = "for update" if query.select_for_update else ""
    return next(iter(WITH_ID.rows(executions, lock, execution_id=execution_id)), None)


def newest_renewal(executions: Any, record: Any) -> Any:
    """The newest execution of the chain, if *record* has continued as new; else *record*.

    Locked if *executions* lock; found by a plain read, and locked by its key.
    """
    plain = record._meta.default_manager.using(executions.db).only("pk")
    while record.state == WorkflowState.COMPLETED and RENEWED_AS in record.metadata:
        newest = find_newest(plain, chain_of(record))
        if newest is None or newest.pk == record.pk:
            break
        record = executions.get(pk=newest.pk)
    return record


def look(executions: Any, chain: str, seen: Collection[int]) -> Any:
    """Give the open wait of the chain its oldest signal, if there is one.

    A transaction of its own, after those of the signals *seen* were committed. Returns the
    execution if that made it ready, else `None`.
    """
    signals = WorkflowSignal.objects.using(executions.db)
    ready, is_taken, newest = None, False, find_newest(executions.only("pk"), chain)
    with bookkeeping(executions.db) as update:
        record = _lock_newest(executions, chain, newest)
        if record is not None and settle(executions, record):
            is_taken, ready = True, record if record.state == WorkflowState.WAITING else None
        looked = signals.filter(pk__in=seen)
        if is_taken:  # the run may act on the answer outside of the database: it must be durable
            looked.update(available_at=None)
        else:
            update(looked, available_at=None)
    return ready


def look_for_event(executions: Any, key: int) -> Any:
    """The look of who has claimed an event for which execution *key* was waiting.

    A transaction of its own. Returns the execution if that made it ready, else `None`.
    """
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().filter(pk=key).first()
        if record is None:
            return None
        is_taken = settle(executions, record)
        if record.waiting_for is None or record.state not in ACTIVE_STATES:
            record.event_waits.model.objects.using(executions.db).close(record)
        return record if is_taken and record.state == WorkflowState.WAITING else None


def _lock_newest(executions: Any, chain: str, newest: Any) -> Any:
    """Lock by key, never in a search: MariaDB waits for the lock of every row it reads."""
    record = None
    while newest is not None and (record is None or record.pk != newest.pk):
        record = executions.select_for_update().filter(pk=newest.pk).first()
        if record is None or record.state in ACTIVE_STATES:
            break
        newest = find_newest(executions.only("pk"), chain)  # it may have been continued meanwhile
    return record


def settle(executions: Any, record: Any) -> bool:
    """Answer the open wait of *record* by its oldest signal, or the first of its sources.

    Lock the execution before. Returns whether there was something. Else remembers on the row
    whether signals are kept. An execution that is to undo and to end waits for nothing any more.
    """
    if record.state not in ACTIVE_STATES or record.ending_at is not None:
        return False
    signals = WorkflowSignal.objects.using(executions.db)
    is_taken = record.waiting_for is not None and _take_oldest(executions, record, signals)
    has_signals = signals.kept(chain_of(record)).exists()
    if has_signals != record.has_signals:
        executions.filter(pk=record.pk).update(has_signals=has_signals)
    return is_taken


def _take_oldest(executions: Any, record: Any, signals: Any) -> bool:
    name = record.waiting_for
    steps = record.steps.using(executions.db)
    is_open = steps.filter(name=name, status=StepStatus.OPEN, answerable=True)
    mailbox, sources = is_open.values_list("signal", "sources").first() or (None, None)
    if sources:
        return take_first(executions, record, [source_of(one) for one in sources])
    signal = None if mailbox is None else signals.oldest(chain_of(record), mailbox)
    return signal is not None and take_signal(executions, record, signal)


def settle_held(executions: Any, record: Any) -> bool:
    """The look of the run that holds *record*, at a wait that it has opened or has found open."""
    with transaction.atomic(using=executions.db):
        held = executions.held(record).select_for_update().first()
        return held is not None and settle(executions, held)


def open_and_suspend(executions: Any, record: Any, opening: Opening) -> WorkflowState | None:
    """Record the wait *opening*, and suspend the run, in one commit.

    An answer locks the execution first, so the wait need not be committed before it is looked for.
    """
    steps: Any = record.steps.model
    until = None if opening.timeout is None else Ago(-opening.timeout)
    row = (
        record.pk, opening.name, StepStatus.OPEN, opening.position, opening.answerable, until,
        opening.signal,
    )  # fmt: skip
    opened = inserting(
        steps,
        dict(zip(OPENING_FIELDS, row, strict=True)),
        executions.db,
        unless=("execution", "name"),
    )
    slots = {"key": record.pk, "token": record.claim_token or "", "name": opening.name}

    def suspend(*, unless_signalled: bool) -> bool:
        how = Suspension(opening.timeout is not None, opening.answerable, unless_signalled)
        suspended = SUSPEND.statement(executions, how, timeout=opening.timeout, **slots)
        return run_together(executions.db, suspended, opened)

    with together(executions.db):
        if suspend(unless_signalled=opening.answerable):
            return WorkflowState.WAITING
    with transaction.atomic(using=executions.db):
        if not opening.answerable or not suspend(unless_signalled=False):
            return WorkflowState.PENDING if release_to_end(executions, record) else None
        if settle(executions, executions.get(pk=record.pk)):
            return WorkflowState.PENDING
        return WorkflowState.WAITING


def forget_mailboxes(model: Any, keys: Collection[int], using: str) -> None:
    """Delete the signals of executions that are about to be pruned, and what they took of events.

    Signals that they have taken; and with the last execution of a chain, all that it has.
    """
    executions = model._base_manager.using(using)
    pruned = dict(executions.filter(pk__in=keys).values_list("execution_id", "chain"))
    chains = {chain or execution_id for execution_id, chain in pruned.items()}
    mailboxes = (WorkflowSignal, WorkflowTakenEvent)
    if not any(
        one._base_manager.using(using).filter(chain__in=chains).exists() for one in mailboxes
    ):
        return
    others = executions.exclude(pk__in=keys)
    in_use = set(others.filter(chain__in=chains).values_list("chain", flat=True))
    in_use |= set(others.filter(execution_id__in=chains).values_list("execution_id", flat=True))
    for one in mailboxes:
        delete(one, using, chain__in=chains - in_use)
    delete(WorkflowSignal, using, chain__in=chains, taken_by__in=list(pruned))
