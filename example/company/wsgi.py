"""For a WSGI server such as gunicorn: ``gunicorn company.wsgi``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "company.settings")
application = get_wsgi_application()
