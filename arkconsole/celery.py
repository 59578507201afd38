"""The Celery application; its schedule is in `arkconsole/ticks.py`, the tasks are in each room's `tasks.py`."""

import os

from celery import Celery

from arkconsole.ticks import BEAT_SCHEDULE, ROUTES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
app = Celery("arkconsole", task_cls="arkconsole.tick_task:TickTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
# No results are kept, so there are none to clean up.
app.conf.update(beat_schedule=BEAT_SCHEDULE, task_routes=ROUTES, result_expires=None)
app.autodiscover_tasks()
