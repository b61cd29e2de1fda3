"""Capped counts as text."""

from general_manager.workflow.models.sql.counting import MOST


def number(count: int) -> str:
    """A capped count as text: ``10,000+`` means more than that."""
    return f"{MOST:,}+" if count > MOST else f"{count:,}"
