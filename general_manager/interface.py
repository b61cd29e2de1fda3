"""What a manager's inner ``Interface`` derives from."""

from general_manager.manager.interfaces import DatabaseInterface, ExistingModelInterface

__all__ = ["DatabaseInterface", "ExistingModelInterface"]
