"""The composition root. Importing it makes the Celery application the one that every `shared_task` belongs to."""

import atexit
import gc

from arkconsole.celery import app as celery_app

__all__ = ["celery_app"]

# Ten processes start and end together, and a third of their time went into looking for garbage: after every 700 objects
# while modules are loaded, of which none is garbage, and once more through everything at the end, when all memory is
# given back anyhow. What is frozen is not looked at.
gc.set_threshold(20_000)
atexit.register(gc.freeze)
