"""Which of the packaged front-end files are served."""

from __future__ import annotations

from django.contrib.staticfiles.apps import StaticFilesConfig


class StaticFiles(StaticFilesConfig):
    """Django's own, less the parts of Tabler that no page uses; some of them name source maps that are not there."""

    ignore_patterns = [
        *StaticFilesConfig.ignore_patterns,
        *("libs", "types", "flags", "payments", "social", "*.rtl.*", "tabler-*"),
    ]
