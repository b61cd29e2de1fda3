"""Models whose name begins with "Archived" live in the second database."""

from typing import Any

from django.db.models import Model


class ArchiveRouter:
    def _alias(self, name: str) -> str:
        return "archive" if name.lower().startswith("archived") else "default"

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return self._alias(model.__name__)

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return self._alias(model.__name__)

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        if app_label == "general_manager":  # an outbox beside each change
            return True
        if app_label == "auth" and model_name is None:  # its migrations of data
            return db == "default"
        return None if model_name is None else db == self._alias(model_name)
