"""Handlers, steps and hooks that are ``async def``, and the verbs for async code, everywhere."""

import asyncio
import threading
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from general_manager.workflow import (
    CannotWaitError,
    EncodingError,
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    ResultTimeout,
    Retry,
    StepUsageError,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowEvent,
    apublish_sync,
    astep,
    step,
)
from general_manager.workflow.signals import execution_changed
from general_manager.workflow.testing import assert_crash_safe
from tests.testapp import aplays, plays
from tests.testapp.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

HOUR = timedelta(hours=1)


def define(handler=None, workflow_id="w", **options):
    return WorkflowDefinition(workflow_id, handler=handler, **options)


def tags():
    return sorted(Tag.objects.values_list("name", flat=True))


# Handlers and steps


def test_an_async_handler_runs_to_its_end(engine, started):
    execution = started(define(aplays.echo), {"n": 1})
    assert execution.state == "completed", execution.error
    assert execution.output_data["echo"] == {"n": 1}
    assert execution.output_data["id"] == execution.execution_id


@pytest.mark.parametrize("form", aplays.FORMS)
def test_every_form_of_an_async_function_is_awaited(engine, driver, started, form):
    if getattr(driver, "run_async", False):
        return  # workers import their handlers: see above
    assert started(define(aplays.FORMS[form]), {"n": 1}).output_data["echo"] == {"n": 1}


@pytest.mark.parametrize("handler", [aplays.fail, aplays.be_cancelled])
def test_what_an_async_handler_raises_is_its_failure(started, handler):
    execution = started(define(handler))
    assert execution.state == "failed"
    assert handler.__name__ in execution.traceback


def test_steps_of_every_kind_run_async_functions_and_write_where_they_belong(started):
    execution = started(define(aplays.steps))
    assert execution.state == "completed", execution.error
    assert execution.output_data == {"names": ["one", "two", "three"], "plain": 4, "count": 3}
    assert plays.stage.seen == [("one", True), ("two", False), ("three", True)]


def test_a_plain_handler_has_async_steps(started):
    execution = started(define(aplays.steps_of_a_plain_handler))
    assert execution.output_data == {"name": "one", "lambda": "two"}, execution.error
    assert plays.stage.seen == [("one", True), ("two", True)]


def test_an_async_step_that_fails_takes_its_writes_back(started, driver):
    plays.stage.troubles.append(ValueError("once"))
    retry = Retry(max_attempts=2, base=10, jitter=0)
    execution = started(define(aplays.add_then_stumble, retry=retry))
    assert (execution.state, tags()) == ("pending", [])
    driver.pass_time(HOUR)
    driver.settle()
    assert tags() == ["one"]
    assert plays.stage.calls == ["one", "one"]


def test_an_async_handler_waits_as_a_row_and_goes_on_from_the_top(engine, driver, started):
    execution = started(define(aplays.ask))
    assert (execution.state, execution.waiting_for) == ("waiting", "approval"), execution.error
    assert engine.progress(execution.execution_id) == {"done": 1, "of": 2}
    engine.resume(execution.execution_id, {"ok": True})
    driver.settle()
    assert engine.status(execution.execution_id).waiting_for is None
    driver.pass_time(2 * HOUR)
    driver.settle()
    now = engine.status(execution.execution_id)
    assert (now.state, now.output_data) == ("completed", {"answer": {"ok": True}})
    assert plays.stage.calls == ["one", "asked"], "neither ran again"


def test_a_wait_of_an_async_handler_times_out(engine, driver, started):
    execution = started(define(aplays.ask))
    for _ in range(2):
        driver.pass_time(2 * HOUR)
        driver.settle()
    assert engine.status(execution.execution_id).output_data == {"answer": "late"}


def test_no_except_clause_of_a_coroutine_catches_a_wait(engine, driver, started):
    execution = started(define(aplays.catch_everything))
    assert execution.state == "waiting"
    engine.resume(execution.execution_id, "yes")
    driver.settle()
    assert engine.status(execution.execution_id).output_data == {"answer": "yes"}


def test_steps_that_are_gathered_take_turns(started):
    execution = started(define(aplays.gather))
    assert execution.state == "completed", execution.error
    assert execution.output_data == {"names": [f"tag {n}" for n in range(4)]}
    assert plays.stage.calls == [f"tag {n}" for n in range(4)]


@pytest.mark.parametrize("handler", [aplays.gather_waits, aplays.group])
def test_a_wait_among_tasks_suspends_the_execution(engine, driver, started, handler):
    execution = started(define(handler))
    assert execution.state == "waiting", execution.error
    engine.resume(execution.execution_id, "yes")
    driver.settle()
    now = engine.status(execution.execution_id)
    assert now.output_data == {"name": "one", "answer": "yes"}, now.error
    assert plays.stage.calls == ["one"]


def test_a_step_in_an_async_step_is_refused_and_does_not_wait_for_itself(started):
    execution = started(define(aplays.step_in_a_step))
    assert execution.state == "failed"
    assert "'inner' is called inside step 'outer'" in execution.error


@pytest.mark.parametrize(
    ("name", "twin"),
    [("step", "astep"), ("wait_for", "await_for"), ("sleep", "asleep"), ("report", "areport")],
)
def test_a_plain_call_in_a_coroutine_names_its_twin(started, name, twin):
    execution = started(define(aplays.call_plainly), {"name": name})
    assert execution.state == "failed"
    assert f"{name}() was called in a coroutine: write await {twin}(...)" in execution.error


def test_context_variables_reach_the_steps_of_an_async_handler(started):
    output = started(define(aplays.keep_context)).output_data
    assert output == {"plain": "of the handler", "async": "of the handler"}
    assert aplays.mark.get() in ("none", "of the handler")


def test_an_async_handler_starts_another_execution(engine, driver, started):
    plays.stage.seen.append(define(plays.echo, "other"))
    execution = started(define(aplays.start_another))
    assert execution.state == "completed", execution.error
    driver.settle()
    assert engine.result(execution.output_data["other"]) == {"echo": {"n": 1}}


def test_an_async_workflow_survives_crashes():
    assert assert_crash_safe(aplays.steps_that_commit) == {"names": ["one", "two"]}


def test_outside_an_execution_an_async_step_is_a_plain_call():
    assert step("x", aplays.asked) is None
    assert async_to_sync(astep)("x", aplays.add, "one") == "one"
    assert async_to_sync(astep)("x", len, "four") == 4
    assert plays.stage.calls == ["asked", "one"]


def test_observers_may_be_async(started):
    seen = []

    async def receive(execution, **_):
        seen.append(str(execution.state))

    execution_changed.connect(receive)
    try:
        started(define(aplays.echo))
    finally:
        execution_changed.disconnect(receive)
    assert seen == ["pending", "running", "completed"]


# Verbs


def test_every_verb_has_a_twin_for_async_code(engine, driver):
    about = {"subject": "Invoice 7", "attributes": {"customer": 7}, "correlation_id": "k"}
    execution = async_to_sync(engine.astart)(define(plays.ask), {"n": 1}, **about)
    driver.settle()

    async def go_on():
        key = {"workflow": "w", "correlation_id": "k"}
        assert (await engine.astatus(execution.execution_id)).state == "waiting"
        assert (await engine.astatus(**key)).subject == "Invoice 7"
        assert await engine.aprogress(**key) is None
        found = engine.executions(attributes={"customer": 7})
        assert [one.execution_id async for one in found] == [execution.execution_id]
        assert [one async for one in found[1:]] == []
        assert (await found.afirst()).execution_id == execution.execution_id
        assert (await found.acount(), await found.aexists()) == (1, True)
        await engine.aresume(execution.execution_id, "yes", wait="approval")

    async_to_sync(go_on)()
    driver.settle()
    assert async_to_sync(engine.aresult)(execution.execution_id) == engine.result(
        execution.execution_id
    )

    async def stop():
        other = await engine.astart(define(plays.ask))
        return await engine.acancel(other.execution_id, reason="no")

    assert async_to_sync(stop)().error == "no"


def test_async_code_sends_signals(engine, driver, started):
    execution = started(define(plays.ask_for_one))
    async_to_sync(engine.asignal)(execution.execution_id, "paid", 7)
    driver.settle()
    assert engine.status(execution.execution_id).output_data == {"paid": 7}


def test_the_async_list_reads_page_by_page(engine, monkeypatch):
    monkeypatch.setattr("general_manager.workflow.executions.query.FIRST_PAGE", 2)
    started = [engine.start(define()).execution_id for _ in range(7)][::-1]

    async def read(found):
        return [one.execution_id async for one in found]

    assert async_to_sync(read)(engine.executions()) == started
    assert async_to_sync(read)(engine.executions()[1:6]) == started[1:6]


def test_an_async_result_waits_without_a_thread(engine, started):
    execution = started(define(plays.ask))

    async def both():
        waiting = asyncio.create_task(engine.aresult(execution.execution_id, timeout=20))
        await asyncio.sleep(0.05)
        await engine.acancel(execution.execution_id, reason="meanwhile")
        await waiting

    with pytest.raises(WorkflowCancelledError, match="meanwhile"):
        async_to_sync(both)()
    other = started(define(plays.ask)).execution_id
    with pytest.raises(ResultTimeout):
        async_to_sync(engine.aresult)(other, timeout=0.05)
    with transaction.atomic():
        if not isinstance(engine, LocalWorkflowEngine):
            with pytest.raises(CannotWaitError):
                async_to_sync(engine.aresult)(other)


def test_the_plain_verbs_of_a_local_engine_refuse_an_async_handler_on_a_loop(driver):
    if not isinstance(driver.engine, LocalWorkflowEngine):
        return

    async def start():
        return driver.engine.start(define(lambda data: aplays.echo(data)))  # noqa: PLW0108 - a form

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        execution = async_to_sync(start)()
    assert "await engine.astart(...)" in execution.error


# Registries


def shaped(function, form):
    """*function*, a coroutine function, in another form."""

    class Callable:
        async def __call__(self, *arguments):
            return await function(*arguments)

    def plain(*arguments):
        return function(*arguments)

    return {"function": function, "object": Callable(), "plain": plain}[form]


class Hooks:
    def __init__(self):
        self.calls: list[object] = []

    async def when(self, event):
        self.calls.append("when")
        return event.payload["wanted"]

    async def validator(self, event):
        self.calls.append("validator")

    async def handler(self, event):
        self.calls.append("handler")
        await Tag.objects.acreate(name="taken back")
        raise ValueError("boom")

    async def retry_on(self, error):
        self.calls.append("retry_on")
        return False

    async def dead_letter_handler(self, event, error):
        self.calls.append(("hook", str(error)))


@pytest.mark.parametrize("form", ["function", "object", "plain"])
def test_every_hook_of_a_registration_may_be_async(post, form):
    hooks = Hooks()
    names = ("when", "validator", "handler", "retry_on", "dead_letter_handler")
    functions = {name: shaped(getattr(hooks, name), form) for name in names}
    post.registry.register("x", retries=3, registration_id="r", **functions)
    for wanted in (False, True):
        post.registry.publish(WorkflowEvent(str(wanted), "a.b", {"wanted": wanted}, event_name="x"))
        post.settle()
    assert [one for one in hooks.calls if one != "retry_on"] == [
        "when", "when", "validator", "handler", ("hook", "boom"),
    ]  # fmt: skip
    assert "retry_on" in hooks.calls
    if not isinstance(post.registry, InMemoryEventRegistry):  # which has no transaction of its own
        assert tags() == []


def test_an_async_handler_of_an_event_writes_in_the_transaction_of_its_delivery(post):
    seen = []

    async def handler(event):
        await Tag.objects.acreate(name=event.event_id)
        seen.append(await aplays._in_a_transaction())

    post.registry.register("x", handler=handler, registration_id="r")
    post.registry.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    post.settle()
    assert tags() == ["1"]
    assert seen == [not isinstance(post.registry, InMemoryEventRegistry)]


def test_events_are_published_from_async_code(post):
    received = []
    post.registry.register("x", handler=lambda event: received.append(event.event_id),
                           registration_id="r")  # fmt: skip

    def event(number):
        return WorkflowEvent(str(number), "a.b", {}, event_name="x")

    async def publish():
        await post.registry.apublish(event(1))
        await post.registry.apublish_many([event(2), event(3)])
        assert await post.registry.apublish_sync(event(4))
        assert await apublish_sync(event(5))
        with pytest.raises(EncodingError):
            await post.registry.apublish(WorkflowEvent("6", "a.b", {"x": b""}, event_name="x"))

    async_to_sync(publish)()
    post.settle()
    assert sorted(received) == ["1", "2", "3", "4", "5"]


def test_an_async_function_is_not_run_on_the_thread_of_a_loop():
    async def wrong():
        step("x", aplays.asked)

    with pytest.raises(StepUsageError, match="await astep"):
        async_to_sync(wrong)()
    assert plays.stage.calls == []


def test_no_thread_or_connection_is_left_behind(engine, started):
    before = threading.active_count()
    for _ in range(5):
        assert started(define(aplays.steps)).state == "completed"
        Tag.objects.all().delete()
    assert threading.active_count() <= before + 3
    assert not connection.in_atomic_block
