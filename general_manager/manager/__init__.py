"""Business objects with one API for changes, so that every change is reported."""

from general_manager.manager.base import GeneralManager
from general_manager.manager.bulk import PublishingQuerySet
from general_manager.manager.change import DataChange, FieldChange
from general_manager.manager.query import ManagerQuery
from general_manager.manager.reporting import Batch
from general_manager.manager.tracking import track_changes

__all__ = [
    "Batch",
    "DataChange",
    "FieldChange",
    "GeneralManager",
    "ManagerQuery",
    "PublishingQuerySet",
    "track_changes",
]
