"""The Celery application of beat: it sends what the schedule says and runs nothing, so it loads no room and no model."""

import os

from celery import Celery
from django.conf import settings
from django.utils.log import configure_logging

from arkconsole.ticks import BEAT_SCHEDULE

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
app = Celery("beat", fixups=[], set_as_current=False)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(beat_schedule=BEAT_SCHEDULE, result_expires=None)
# What `django.setup` does elsewhere, beside loading the models.
configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
