"""Actions by name."""

import pytest

from general_manager.workflow.actions import ActionRegistry
from general_manager.workflow.exceptions import ActionAlreadyRegisteredError, ActionNotFoundError


@pytest.fixture
def actions():
    return ActionRegistry()


def send(*, to):
    return {"sent": to}


def test_an_action_runs_by_its_name(actions):
    actions.register("send_email", send)
    assert actions.run("send_email", to="ops@example.test") == {"sent": "ops@example.test"}
    assert "send_email" in actions
    assert actions.names() == ["send_email"]


def test_a_function_can_be_decorated(actions):
    @actions.action("send_email")
    def decorated(*, to):
        return to

    assert actions.get("send_email") is decorated
    assert decorated(to="x") == "x"


def test_an_unknown_name_suggests_the_nearest(actions):
    actions.register("send_email", send)
    with pytest.raises(ActionNotFoundError, match="Did you mean 'send_email'"):
        actions.run("send_mail")
    with pytest.raises(ActionNotFoundError, match=r"as 'zzz'\.$"):
        actions.get("zzz")


def test_a_name_is_not_taken_by_accident(actions):
    actions.register("send_email", send)
    actions.register("send_email", send)
    with pytest.raises(ActionAlreadyRegisteredError, match="replace=True"):
        actions.register("send_email", print)
    actions.register("send_email", print, replace=True)
    assert actions.get("send_email") is print


@pytest.mark.parametrize(("name", "action"), [("", send), (None, send), ("x", "send")])
def test_a_wrong_action_is_refused(actions, name, action):
    with pytest.raises((TypeError, ValueError)):
        actions.register(name, action)
    assert actions.names() == []


def test_an_argument_may_be_called_name(actions):
    actions.register("greet", lambda name: f"Hello {name}")
    assert actions.run("greet", name="Ada") == "Hello Ada"


class Desk:
    def act(self):
        """A bound method is a new object each time it is looked up, and equal to the last."""


def test_a_method_can_be_registered_twice(actions):
    desk = Desk()
    actions.register("act", desk.act)
    actions.register("act", desk.act)
    assert actions.names() == ["act"]


class Sender:
    def execute(self, context, params):
        return (context, params)


def test_a11_an_object_that_executes_is_an_action_too(actions):
    actions.register("send", Sender())
    assert actions.execute("send", context="run 7", params={"to": "x"}) == ("run 7", {"to": "x"})
    assert actions.run("send", to="x") == (None, {"to": "x"})


def test_a11_a_function_is_executed_with_its_params_and_with_the_context_if_it_takes_one(actions):
    actions.register("send", send)
    assert actions.execute("send", context="run 7", params={"to": "x"}) == {"sent": "x"}
    actions.register("where", lambda context, to: (context, to))
    assert actions.execute("where", context="run 7", params={"to": "x"}) == ("run 7", "x")
    actions.register("built in", dict)
    assert actions.execute("built in", context=1, params={"a": 2}) == {"a": 2}


def test_a11_a_class_is_called_like_a_function(actions):
    actions.register("make", Sender)
    assert isinstance(actions.run("make"), Sender)
