"""Business objects: changed through one door, and every change told."""

from general_manager.manager.base import GeneralManager
from general_manager.manager.change import DataChange, FieldChange
from general_manager.manager.query import ManagerQuery
from general_manager.manager.tracking import track_changes

__all__ = ["DataChange", "FieldChange", "GeneralManager", "ManagerQuery", "track_changes"]
