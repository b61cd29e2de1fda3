"""Base classes of a manager's inner ``Interface``."""

from general_manager.manager.interfaces import DatabaseInterface, ExistingModelInterface

__all__ = ["DatabaseInterface", "ExistingModelInterface"]
