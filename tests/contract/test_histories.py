"""Every engine through the same histories, drawn by Hypothesis: the same comes of them."""

from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from general_manager.workflow import Retry, WorkflowDefinition, WorkflowError
from general_manager.workflow.signals import execution_changed
from tests.contract.drivers import ENGINES
from tests.testapp import plays
from tests.testapp.plays import HOUR

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])

STEADY = Retry(max_attempts=3, base=7200, factor=2, maximum=10**6, jitter=0)
WORKFLOWS = {
    "journey": WorkflowDefinition("journey", handler=plays.journey),
    "patient": WorkflowDefinition("patient", handler=plays.journey, retry=STEADY),
    "questions": WorkflowDefinition("questions", handler=plays.ask_twice),
    "limited": WorkflowDefinition("limited", handler=plays.ask_twice, deadline=30 * HOUR),
    "empty": WorkflowDefinition("empty"),
    "lost": WorkflowDefinition("lost", metadata={"handler_path": "no.where"}, retry=STEADY),
    "trip": WorkflowDefinition("trip", handler=plays.trip_history),
    "patient trip": WorkflowDefinition("patient trip", handler=plays.trip_history, retry=STEADY),
    "branch": WorkflowDefinition("branch", handler=plays.branch_history, retry=STEADY),
    "single": WorkflowDefinition("single", handler=plays.charge_once_if_it_can, retry=STEADY),
}
KEYS = st.sampled_from(["a", "b", "c"])


class Histories(RuleBasedStateMachine):
    """Each rule is done with both engines; their executions are matched by order.

    Two at a time, because those that store executions share the tables.
    """

    names: ClassVar[tuple[str, ...]] = ("local",)

    def __init__(self) -> None:
        super().__init__()
        call_command("flush", verbosity=0, interactive=False)
        plays.reset()
        self.drivers = {name: ENGINES[name]() for name in self.names}
        self.ids: dict[str, list[str]] = {name: [] for name in self.names}
        self.told: dict[str, list[tuple[str, str]]] = {name: [] for name in self.names}

    def everywhere(self, act: Any) -> None:
        """What *act* comes to must be the same with each engine, and leave the same behind."""
        outcomes = {name: self._outcome(name, act) for name in self.names}
        for name, outcome in outcomes.items():
            assert outcome == outcomes["local"], name
        seen = {name: self._facts(name) for name in self.names}
        for name, facts in seen.items():
            assert facts == seen["local"], name
            assert self.told[name] == self.told["local"], name

    def _outcome(self, name: str, act: Any) -> Any:
        driver, ids = self.drivers[name], self.ids[name]

        def hear(execution: Any, **_: Any) -> None:
            self.told[name].append((execution.workflow_id, str(execution.state)))

        plays.stage.driver = driver
        execution_changed.connect(hear)
        try:
            with driver.in_force():
                try:
                    result = act(driver, ids)
                except WorkflowError as error:
                    result = self._plain(name, (type(error).__name__, str(error)))
                if result is not None and hasattr(result, "execution_id"):
                    if result.execution_id not in ids:
                        ids.append(result.execution_id)
                    result = ids.index(result.execution_id)
                driver.settle()
        finally:
            execution_changed.disconnect(hear)
        return result

    def _facts(self, name: str) -> Any:
        engine = self.drivers[name].engine
        facts = []
        with self.drivers[name].in_force():
            for key in self.ids[name]:
                one = engine.status(key)
                sent = [(each.name, each.value, each.status, each.wait)
                        for each in engine.signals(key)]  # fmt: skip
                entries = [(str(entry.kind), entry.detail) for entry in engine.history(key)]
                facts.append(
                    (
                        str(one.state), one.workflow_id, one.correlation_id, one.input_data,
                        one.output_data, one.error, sorted(one.metadata.items()),
                        sent, entries, self._steps(engine, key), bool(one.traceback),
                        one.started_at is None, one.ended_at is None,
                    )
                )  # fmt: skip
        return self._plain(name, facts)

    def _steps(self, engine: Any, key: str) -> Any:
        preview = engine.preview_retry(key)
        return preview.kept, sorted(preview.runs_again), preview.in_doubt, bool(preview.refusal)

    def _plain(self, name: str, value: Any) -> str:
        """*value* with the executions' ids as numbers."""
        text = repr(value)
        for number, key in enumerate(self.ids[name]):
            text = text.replace(key, f"execution {number}")
        return text

    @rule(workflow=st.sampled_from(sorted(WORKFLOWS)), key=KEYS, is_unique=st.booleans())
    def start(self, workflow: str, key: str, is_unique: bool) -> None:
        definition, correlation_id = WORKFLOWS[workflow], key if is_unique else None
        self.everywhere(
            lambda driver, ids: driver.engine.start(
                definition, {"key": key}, correlation_id=correlation_id, metadata={"by": key}
            )
        )

    def _of_one(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.ids["local"]) - 1))

    @precondition(lambda self: self.ids["local"])
    @rule(data=st.data(), wait=st.sampled_from([None, None, "answer", "first", "second"]))
    def resume(self, data: st.DataObject, wait: str | None) -> None:
        one = self._of_one(data)
        self.everywhere(lambda driver, ids: driver.engine.resume(ids[one], {"n": one}, wait=wait))

    @precondition(lambda self: self.ids["local"])
    @rule(data=st.data(), signal=st.sampled_from(["answer", "first", "second"]))
    def signal(self, data: st.DataObject, signal: str) -> None:
        one = self._of_one(data)
        self.everywhere(lambda driver, ids: driver.engine.signal(ids[one], signal, {"n": one}))

    @precondition(lambda self: self.ids["local"])
    @rule(data=st.data(), reason=st.sampled_from([None, "", "enough"]), compensate=st.booleans())
    def cancel(self, data: st.DataObject, reason: str | None, compensate: bool) -> None:
        one = self._of_one(data)
        self.everywhere(
            lambda driver, ids: driver.engine.cancel(ids[one], reason=reason, compensate=compensate)
        )

    @precondition(lambda self: self.ids["local"])
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        one = self._of_one(data)
        self.everywhere(lambda driver, ids: driver.engine.wake(ids[one]))

    @precondition(lambda self: self.ids["local"])
    @rule(data=st.data(), before=st.sampled_from([None, None, "answer", "first", "second"]))
    def go_on(self, data: st.DataObject, before: str | None) -> None:
        one = self._of_one(data)
        self.everywhere(
            lambda driver, ids: driver.engine.retry_from_checkpoint(
                ids[one], before=before, repeat_once=True
            )
        )

    @precondition(lambda self: self.ids["local"])
    @rule(data=st.data(), happened=st.booleans(), step=st.sampled_from(["charge", "first"]))
    def resolve(self, data: st.DataObject, happened: bool, step: str) -> None:
        one = self._of_one(data)
        self.everywhere(
            lambda driver, ids: driver.engine.resolve_step(
                ids[one], step, happened=happened, result="by hand"
            )
        )

    @rule(hours=st.sampled_from([1, 2, 30]))
    def time_passes(self, hours: int) -> None:
        duration = timedelta(minutes=1) + hours * HOUR
        self.everywhere(lambda driver, ids: driver.pass_time(duration))

    @rule(key=KEYS)
    def begin_to_fail(self, key: str) -> None:
        plays.stage.failing.add(key)

    @rule(key=KEYS)
    def cease_to_fail(self, key: str) -> None:
        plays.stage.failing.discard(key)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "local"])
def test_an_engine_comes_to_the_same_as_the_local_one_through_the_same_history(name):
    run_state_machine_as_test(
        type("Histories", (Histories,), {"names": ("local", name)}),
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            phases=[Phase.generate],  # shrinking runs minutes; what is drawn is short enough
            suppress_health_check=list(HealthCheck),
        ),
    )
