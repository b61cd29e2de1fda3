"""The project's Celery app, as in Celery's documentation."""

import os

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "company.settings")

# For the demo only: a broker that needs no server. Use Redis or RabbitMQ.
TRANSPORT_ALIASES["files"] = "company.file_broker:Transport"

app = Celery("company")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
