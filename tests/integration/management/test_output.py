"""What commands print, and where: terminals without our characters, pipes that nobody reads."""

import errno
import json
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from django.core.management import CommandError, call_command

from general_manager.workflow import WorkflowEvent
from general_manager.workflow.exceptions import PermanentFailure
from general_manager.workflow.models import WorkflowDeliveryAttempt

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "archive"])


@pytest.fixture
def event(outbox):
    outbox.publish(WorkflowEvent("é1", "a.b", {"name": "Zoë"}, event_name="x"))
    return "é1"


def printed(encoding, *arguments, **options):
    out = TextIOWrapper(BytesIO(), encoding=encoding)
    call_command(*arguments, stdout=out, **options)
    out.seek(0)
    return out.read()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_for_every_terminal(event, encoding):
    said = printed(encoding, "workflow_trace", event, format="json")
    assert json.loads(said)["payload"] == {"name": "Zoë"}


def test_text_has_escapes_for_what_the_terminal_does_not_have(event, celery_engine):
    assert r"Event \xe91" in printed("ascii", "workflow_trace", event)
    assert "Event é1" in printed("latin-1", "workflow_trace", event)
    celery_engine.pause("sync", reason="größer ✓")
    assert r"größer \u2713" in printed("latin-1", "workflow_pauses")


class Lost(StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


class LostAtTheEnd(Lost):
    def write(self, text):
        return len(text)

    def flush(self):
        raise self.error


@pytest.mark.parametrize("lost", [Lost, LostAtTheEnd])
def test_a_reader_that_has_ended_stops_no_work(outbox, workers, lost):
    def fail(event):
        raise PermanentFailure("boom")

    outbox.register("x", handler=fail, registration_id="shop")
    outbox.publish(WorkflowEvent("1", "a.b", {}, event_name="x"))
    workers.deliver()
    call_command("workflow_requeue_dead_letters", stdout=lost(BrokenPipeError(errno.EPIPE, "x")))
    assert not WorkflowDeliveryAttempt.objects.dead().exists()


@pytest.mark.parametrize("lost", [Lost, LostAtTheEnd])
def test_a_full_disk_is_reported_when_the_work_is_done(event, lost):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CommandError, match="could not be written: No space left on device"):
        call_command("workflow_trace", event, stdout=lost(full))
