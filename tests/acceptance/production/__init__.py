"""A project as it runs in production: web, workers and Beat are processes of their own."""

from tests.acceptance.production.celery import app

__all__ = ["app"]
