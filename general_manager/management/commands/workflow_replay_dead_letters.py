"""The old name of `workflow_requeue_dead_letters`, kept for scripts that use it."""

from general_manager.management.commands.workflow_requeue_dead_letters import Command

__all__ = ["Command"]
