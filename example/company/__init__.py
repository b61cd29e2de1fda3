"""The project. Imports its Celery app, so that the web process has it too."""

from company.celery import app

__all__ = ["app"]
