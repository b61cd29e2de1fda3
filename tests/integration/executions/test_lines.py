"""Lines of limits under every interleaving of two connections, and under deaths everywhere.

The rules are those of docs/limits.md. Each test names what would be lost, or given twice, without.
"""

from datetime import timedelta
from functools import partial
from itertools import count
from threading import Thread

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from general_manager.workflow import Limit, Rate, WorkflowDefinition
from general_manager.workflow.admission.lines import sweep_lines
from general_manager.workflow.executions.runner import run, run_here
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowLimitKey
from general_manager.workflow.models.executions.lines import forget_idle_keys, look
from general_manager.workflow.workers.tick import sweep
from tests.integration.executions.killing import is_killed
from tests.integration.executions.stepping import dying_at_each_statement, interleave
from tests.testapp import limited

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

ONE = WorkflowDefinition("w", handler=limited.play, limit=Limit(1, key="key"))
ASKS = WorkflowDefinition("w", handler=limited.ask, limit=Limit(1, key="key"))
RATED = WorkflowDefinition(
    "rated", handler=limited.play, rate=Rate(2, per=timedelta(minutes=1), key="key")
)
numbers = count()

two_connections = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="There, one writer excludes all others"
)


@pytest.fixture(autouse=True)
def _fresh():
    limited.reset()
    for definition in (ONE, RATED):
        WorkflowDefinition(
            definition.workflow_id,
            handler=definition.handler,
            limit=definition.limit,
            rate=definition.rate,
        )  # defined again for this test
    yield
    limited.reset()


class Key:
    """A key of its own for each round, with the executions that were started under it."""

    def __init__(self, engine):
        self.engine, self.value, self.ids = engine, f"k{next(numbers)}", []

    def start(self, definition=ONE, **more):
        given = {"name": f"e{len(self.ids)}", "key": self.value, **more}
        self.ids.append(self.engine.start(definition, given).execution_id)
        return self.ids[-1]

    @property
    def hash(self):
        return self.row(0).slot_key

    def row(self, number):
        return WorkflowExecutionRecord.objects.get(execution_id=self.ids[number])

    def rows(self):
        return WorkflowExecutionRecord.objects.filter(execution_id__in=self.ids)

    def holders(self):
        return self.rows().filter(holds_slot__isnull=False).count()

    def line(self):
        return self.rows().filter(waits_slot__isnull=False).count()

    def states(self):
        return list(self.rows().order_by("pk").values_list("state", flat=True))


def let_time_pass():
    """Leases end, and lines are due."""
    past = timezone.now() - timedelta(seconds=1)
    for name in ("wake_at", "slot_until"):
        WorkflowExecutionRecord.objects.filter(**{f"{name}__isnull": False}).update(**{name: past})
    WorkflowLimitKey.objects.filter(look_at__isnull=False).update(look_at=past)


def finish(key):
    """Nothing but what is due and ready makes it go on; at the end nothing is left over."""
    for _ in range(20):
        if not key.rows().filter(state__in=("pending", "running")).exists():
            break
        let_time_pass()
        sweep(hand_on=False)
    assert set(key.states()) <= {"completed", "cancelled", "waiting"}, key.states()
    assert (key.holders(), key.line()) == (0, 0)
    assert limited.MOST[key.value] <= 1


def in_both_orders(prepare, first, second, check):
    """Each of the two stops before its first statement, its second, ... while the other goes on."""
    for one, other in ((first, second), (second, first)):
        for at in range(100):
            key = prepare()
            had, statements = interleave(partial(one, key), partial(other, key), at)
            check(key, f"{one.__name__} stopped before its statement {at} of {statements}")
            if not had:
                break
        else:
            raise AssertionError("it has too many statements")


def in_line(engine, many):
    """A key whose slot is free, and *many* in its line: their looks were lost."""
    key = Key(engine)
    for _ in range(many):
        key.start()
    key.rows().update(waits_slot=F("slot_key"), holds_slot=None, wake_at=None)
    return key


def looks(key):
    look(WorkflowExecutionRecord.objects.all(), key.hash)


def one_holds(key, why):
    assert key.holders() == 1, why
    looks(key)
    assert key.holders() == 1, why


@two_connections
@pytest.mark.parametrize("known", [True, False], ids=["a known key", "a new key"])
def test_l1_two_looks_never_give_one_slot_twice(celery_engine, known):
    """Without the lock, or counted in the statement that waits for it, both would count none."""

    def prepare():
        key = in_line(celery_engine, 3)
        if not known:
            WorkflowLimitKey.objects.filter(key=key.hash).delete()
        return key

    in_both_orders(prepare, looks, looks, one_holds)


@two_connections
def test_l1_who_starts_and_who_ends_do_not_miss_each_other(celery_engine):
    """A look before the commit of the start would leave it in line, though the slot is free."""

    def prepare():
        key = Key(celery_engine)
        key.start()
        return key

    def starts(key):
        key.start()

    def ends(key):
        run(key.ids[0], "default")

    def check(key, why):
        assert (key.states()[0], key.holders(), key.line()) == ("completed", 1, 0), why

    in_both_orders(prepare, starts, ends, check)


@two_connections
def test_l1_a_cancellation_and_a_look_leave_the_slot_to_the_next(celery_engine):
    """Counted before the cancellation, the slot of the one cancelled must be given later."""

    def cancels(key):
        celery_engine.cancel(key.ids[0])

    def check(key, why):
        found = (key.states()[0], key.holders(), key.row(1).holds_slot is not None)
        assert found == ("cancelled", 1, True), why

    in_both_orders(partial(in_line, celery_engine, 2), cancels, looks, check)


@two_connections
def test_l1_an_answer_and_an_end_do_not_miss_each_other(celery_engine):
    def prepare():
        key = Key(celery_engine)
        key.start(ASKS)
        run(key.ids[0], "default")
        key.start()
        return key

    def answers(key):
        celery_engine.resume(key.ids[0], 1)

    def ends(key):
        run(key.ids[1], "default")

    def check(key, why):
        assert key.states() == ["pending", "completed"], why
        assert (key.holders(), key.line()) == (1, 0), why

    in_both_orders(prepare, answers, ends, check)


@two_connections
def test_l1_two_looks_never_let_more_start_than_a_rate_allows(celery_engine):
    def prepare():
        key = Key(celery_engine)
        for _ in range(4):
            key.start(RATED)
        key.rows().update(waits_slot=F("slot_key"), holds_slot=None, holds_rate=None, wake_at=None)
        return key

    def check(key, why):
        assert key.rows().filter(holds_rate__isnull=False).count() == 2, why

    in_both_orders(prepare, looks, looks, check)


def test_l1_who_dies_anywhere_in_a_start_leaves_nobody_in_line_for_good(celery_engine):
    """Without the sweep's look, one whose starter died after the commit would wait for good."""
    were_started = set()
    for key, at in dying_at_each_statement(partial(Key, celery_engine), lambda key: key.start()):
        key.ids = [
            one.execution_id
            for one in WorkflowExecutionRecord.objects.filter(input_data__key=key.value)
        ]
        were_started.add(bool(key.ids))
        finish(key)
        assert key.states() == ["completed"] * len(key.ids), at
    assert were_started == {True, False}


@pytest.mark.parametrize("definition", [ONE, ASKS], ids=["to its end", "to a wait"])
def test_l1_a_run_that_dies_anywhere_gives_its_slot_back_once(celery_engine, definition):
    def prepare():
        key = Key(celery_engine)
        key.start(definition)
        key.start()
        return key

    for key, at in dying_at_each_statement(prepare, lambda key: run(key.ids[0], "default")):
        finish(key)
        assert key.states()[1] == "completed", at


def test_l1_an_answer_that_dies_anywhere_loses_no_place_in_line(celery_engine):
    def prepare():
        key = Key(celery_engine)
        key.start(ASKS)
        run(key.ids[0], "default")
        return key

    outcomes = set()
    for key, at in dying_at_each_statement(
        prepare, lambda key: celery_engine.resume(key.ids[0], "yes")
    ):
        is_answered = key.row(0).state != "waiting"
        finish(key)
        assert key.states() == ["completed" if is_answered else "waiting"], at
        outcomes.add(is_answered)
    assert outcomes == {True, False}


def test_l1_the_slot_of_a_cancelled_run_whose_worker_died_is_free_with_its_lease(celery_engine):
    key = Key(celery_engine)
    key.start()
    key.start()
    lease = timedelta(minutes=1)
    record = WorkflowExecutionRecord.objects.claim(key.ids[0], lease=lease)
    celery_engine.cancel(key.ids[0])
    looks(key)
    assert (key.holders(), key.line()) == (1, 1)
    soon = timezone.now() + timedelta(seconds=1)
    key.rows().filter(slot_until__isnull=False).update(slot_until=soon)
    WorkflowExecutionRecord.objects.renew(record, lease=lease)  # its worker lives
    assert key.row(0).slot_until > timezone.now() + timedelta(seconds=30)
    let_time_pass()
    sweep(hand_on=False)
    assert key.states() == ["cancelled", "completed"]


def test_a_lapsed_lease_keeps_its_slot(celery_engine):
    key = Key(celery_engine)
    key.start()
    key.start()
    WorkflowExecutionRecord.objects.claim(key.ids[0], lease=timedelta(minutes=1))
    let_time_pass()
    WorkflowExecutionRecord.objects.wake_due(10)
    looks(key)
    assert (key.row(0).holds_slot, key.row(1).holds_slot) == (key.hash, None)
    finish(key)


def test_the_clock_of_the_database_may_be_set_back(celery_engine):
    """What counts for longer than the period is pulled in, or its line would wait for years."""
    key = Key(celery_engine)
    for _ in range(3):
        key.start(RATED)
    sweep(hand_on=False)
    far = timezone.now() + timedelta(days=900)
    key.rows().filter(rate_until__isnull=False).update(rate_until=far)
    looks(key)
    soon = timezone.now() + timedelta(seconds=61)
    assert all(row.rate_until < soon for row in key.rows() if row.rate_until)


def test_a_deployment_that_raises_a_limit_moves_the_line_at_the_next_sweep(celery_engine):
    key = Key(celery_engine)
    for _ in range(4):
        key.start()
    assert (key.holders(), key.line()) == (1, 3)
    WorkflowDefinition("w", handler=limited.play, limit=Limit(3, key="key"))
    sweep_lines("default", run_here)
    assert (key.holders(), key.line()) == (3, 1)
    row = WorkflowLimitKey.objects.get(key=key.hash)
    assert (row.most, row.label) == (3, f"w: key={key.value}")


def test_a_rate_that_a_deployment_adds_counts_those_that_were_in_line(celery_engine):
    key = Key(celery_engine)
    for _ in range(4):
        key.start()
    assert (key.holders(), key.line()) == (1, 3)
    rate = Rate(2, per=timedelta(minutes=5), key="key")
    WorkflowDefinition("w", handler=limited.play, limit=Limit(1, key="key"), rate=rate)
    for _ in range(5):
        sweep(hand_on=False)
    # The first had its slot under the limit alone; of the others, two started in five minutes.
    assert key.states() == ["completed", "completed", "completed", "pending"]
    counting = key.rows().filter(rate_until__gt=timezone.now() + timedelta(minutes=4))
    assert counting.count() == 2


@two_connections
def test_a_row_that_somebodys_transaction_holds_does_not_hold_up_its_line(celery_engine):
    key = Key(celery_engine)
    for _ in range(3):
        key.start()
    with transaction.atomic():
        key.rows().filter(execution_id=key.ids[1]).select_for_update().get()

        def other():
            run(key.ids[0], "default")  # and look, as it ends
            connection.close()

        thread = Thread(target=other)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), "it waits for the row"
        assert key.row(2).waits_slot is None, "the next one has the slot"
    sweep(hand_on=False)
    sweep_lines("default", run_here)
    assert key.line() == 0


def test_keys_that_nobody_uses_are_forgotten_and_others_are_not(celery_engine):
    used, idle, rated = Key(celery_engine), Key(celery_engine), Key(celery_engine)
    used.start()
    for key, definition in ((idle, ONE), (rated, RATED)):
        key.start(definition)
        run(key.ids[0], "default")
    executions = WorkflowExecutionRecord.objects.all()
    assert forget_idle_keys(executions, 0, 10) == 0
    left = set(WorkflowLimitKey.objects.values_list("key", flat=True))
    assert left == {used.hash, rated.hash}
    idle.start()
    assert idle.row(1).holds_slot == idle.hash


@pytest.mark.parametrize("many", [1, 50])
def test_a_look_costs_the_same_however_long_the_line_is(celery_engine, many):
    key = Key(celery_engine)
    for _ in range(many):
        key.start()
    key.start()
    made = []

    def keep(execute, sql, *arguments):
        made.append(sql.split()[0])
        return execute(sql, *arguments)

    key.rows().filter(holds_slot__isnull=False).update(holds_slot=None, state="cancelled")
    line, executions = key.hash, WorkflowExecutionRecord.objects.all()
    with connection.execute_wrapper(keep):
        look(executions, line)
    work = [one for one in made if one in ("SELECT", "UPDATE", "INSERT")]
    assert work[:3] == ["SELECT", "SELECT", "SELECT"], (
        "key, then holders and line in new statements"
    )
    assert work[3] == "UPDATE", "the one that it admits"
    assert len(work) <= 5


def test_l1_a_worker_that_is_killed_while_it_holds_a_slot_holds_up_nobody(celery_engine):
    """Processes of their own, killed before and after statements and commits of the run."""
    for number in count(0, 4):
        key = Key(celery_engine)
        key.start()
        key.start()
        moment = is_killed(number, partial(run, key.ids[0], "default"))
        assert key.holders() <= 1, moment
        finish(key)
        assert key.states() == ["completed", "completed"], moment
        if not moment:
            assert number >= 12
            break
