"""The project. Its Celery app is imported here, so that the web process has it too."""

from company.celery import app

__all__ = ["app"]
