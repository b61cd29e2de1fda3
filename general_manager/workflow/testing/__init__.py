"""The test kit: run workflows without workers or waiting, and test that they survive crashes.

Works in plain tests, in Django's `TestCase` and in pytest, and does not need Celery.
"""

from general_manager.workflow.testing.crashes import assert_crash_safe
from general_manager.workflow.testing.draining import aadvance, adrain, advance, drain
from general_manager.workflow.testing.effects import sent_mails
from general_manager.workflow.testing.pausing import paused
from general_manager.workflow.testing.published import assert_published, published
from general_manager.workflow.testing.running import TIMEOUT, arun, run

__all__ = [
    "TIMEOUT",
    "aadvance",
    "adrain",
    "advance",
    "arun",
    "assert_crash_safe",
    "assert_published",
    "drain",
    "paused",
    "published",
    "run",
    "sent_mails",
]
