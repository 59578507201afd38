"""Which of the packaged front-end files are served."""

from __future__ import annotations

from django.contrib.staticfiles.apps import StaticFilesConfig


class StaticFiles(StaticFilesConfig):
    """Django's own, less the parts of Tabler that no page uses; some of them name source maps that are not there."""

    ignore_patterns = [  # noqa: RUF012 - as the parent declares it
        *StaticFilesConfig.ignore_patterns,
        *("libs", "types", "flags", "payments", "social", "*.rtl.*", "tabler-*"),
    ]
