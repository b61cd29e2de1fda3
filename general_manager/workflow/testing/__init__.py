"""The test kit: run workflows without workers or waiting, and prove that they survive crashes.

Everything here works in plain tests, in Django's `TestCase` and in pytest; nothing needs Celery.
"""

from general_manager.workflow.testing.crashes import assert_crash_safe
from general_manager.workflow.testing.draining import advance, drain
from general_manager.workflow.testing.effects import sent_mails
from general_manager.workflow.testing.published import assert_published, published
from general_manager.workflow.testing.running import TIMEOUT, run

__all__ = [
    "TIMEOUT",
    "advance",
    "assert_crash_safe",
    "assert_published",
    "drain",
    "published",
    "run",
    "sent_mails",
]
