"""The engines: local, in memory; and Celery, on the database."""
