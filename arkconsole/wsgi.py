"""The console as a WSGI callable, for gunicorn."""

import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
application = get_wsgi_application()
# Once per start, before gunicorn forks. It also loads all views, which each worker else does for its first page.
call_command("check")
