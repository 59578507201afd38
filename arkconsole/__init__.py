"""The composition root. Importing it makes the Celery application the one that every `shared_task` belongs to."""

from arkconsole.celery import app as celery_app

__all__ = ["celery_app"]
