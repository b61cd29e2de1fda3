"""What an id may look like, wherever it comes in."""

import pytest

from general_manager.workflow import (
    InMemoryEventRegistry,
    LocalWorkflowEngine,
    WorkflowDefinition,
    WorkflowEvent,
    step,
    wait_for,
)
from general_manager.workflow.core.ids import require_id

FORGING = ["a\nb", "a\x00b", "a\x1b[2Jb", "a\x85b", "a\u2028b", "a\u202eb", "a\u2066b", "a\u200fb"]


@pytest.mark.parametrize("text", FORGING)
def test_i12_what_would_forge_a_line_is_refused_wherever_an_id_comes_in(text):
    def event(**changed):
        return WorkflowEvent(**{"event_id": "1", "event_type": "a.b", "payload": {}, **changed})

    registry, engine = InMemoryEventRegistry(), LocalWorkflowEngine()
    for come_in in (
        lambda: event(event_id=text),
        lambda: event(event_type=text),
        lambda: event(event_name=text),
        lambda: event(source=text),
        lambda: WorkflowDefinition(text),
        lambda: WorkflowDefinition("w", version=text),
        lambda: registry.register(text, handler=print),
        lambda: registry.register("x", handler=print, registration_id=text),
        lambda: engine.start(WorkflowDefinition("w"), correlation_id=text),
    ):
        with pytest.raises(ValueError, match=r"must not contain the control character U\+"):
            come_in()

    def take_a_step(data):
        return step(text, lambda: None)

    def wait(data):
        return wait_for(text)

    for handler in (take_a_step, wait):
        failed = engine.start(WorkflowDefinition("w", handler=handler))
        assert failed.state == "failed"
        assert "must not contain the control character" in str(failed.error)


PLAIN = ["loan-1", "Zürich", "注文", "a b", "a/b?c#d%e", "e\u0301", "👩\u200d💻"]


@pytest.mark.parametrize("text", PLAIN)
def test_i12_what_people_write_is_an_id(text):
    require_id("an id", text)
