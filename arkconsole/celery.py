"""The Celery application; its schedule is in `arkconsole/ticks.py`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
app = Celery("arkconsole")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["arkconsole.ticks"], related_name="", force=False)
app.conf.imports = ["arkconsole.ticks"]
