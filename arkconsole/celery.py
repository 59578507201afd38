"""The Celery application; its schedule is in `arkconsole/ticks.py`, the tasks are in each room's `tasks.py`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
app = Celery("arkconsole", task_cls="arkconsole.ticks:TickTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_configure.connect
def _schedule(sender: Celery, **_kwargs: object) -> None:
    # Only here: the schedule imports models, which are not there yet when Django's settings are first read.
    from arkconsole.ticks import BEAT_SCHEDULE, ROUTES

    sender.conf.beat_schedule = BEAT_SCHEDULE
    sender.conf.task_routes = ROUTES
