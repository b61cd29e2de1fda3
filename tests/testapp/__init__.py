"""A project's app as its authors would write it; registers at import time and in ready()."""

from general_manager.workflow import get_event_registry
from tests.testapp.heard import hear

get_event_registry().register("heard_at_import", handler=hear)
