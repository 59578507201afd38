"""Which of the packaged front-end files are served, and under which names."""

from __future__ import annotations

from django.contrib.staticfiles.apps import StaticFilesConfig
from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFiles(StaticFilesConfig):
    """Django's own, less the parts of Tabler that no page uses; some of them name source maps that are not there."""

    ignore_patterns = [
        *StaticFilesConfig.ignore_patterns,
        *("libs", "types", "flags", "payments", "social", "*.rtl.*", "tabler-*"),
    ]


class Storage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Names carry a hash, also in what one module imports from another: an upgrade never mixes old files with new.

    Only our own modules: packages name files in their comments that are not there.
    """

    patterns = (
        *CompressedManifestStaticFilesStorage.patterns,
        (
            "js/*.js",
            (
                (
                    r"""(?P<matched>import(?P<names>[\s{*][^;"']*?)\s*from\s*["'](?P<url>\./[^"']+|\.\./[^"']+)["']\s*;)""",
                    """import%(names)s from "%(url)s";""",
                ),
            ),
        ),
    )
