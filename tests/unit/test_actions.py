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
