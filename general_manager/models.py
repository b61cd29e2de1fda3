"""The module in which Django looks for models."""

from general_manager.workflow.models import *  # noqa: F403 - all models
