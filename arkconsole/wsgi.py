"""The console as a WSGI callable, for gunicorn."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
application = get_wsgi_application()
