"""Prometheus' own judge of rules. Where it is missing our parser has judged alone, and the page says so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alerts import installation

SECONDS = 60
MAX_SAID = 2_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """`said` is its complaint, untranslated, without the names of our folders; "" when there is none."""

    said: str = ""
    is_missing: bool = False

    @property
    def is_ok(self) -> bool:
        return not self.said


@dataclass(frozen=True, slots=True)
class Position:
    """Where in an expression it found something wrong, from 1, and what."""

    line: int
    column: int
    said: str


def find() -> Path | None:
    """The program; None where there is none that can be run."""
    program = installation.promtool()
    return program if program and os.access(program, os.X_OK) else None


def check(files: Sequence[Path]) -> Verdict:
    """Whether Prometheus would take these rule files, each by itself as good as the others."""
    program = find()
    if program is None:
        return Verdict(is_missing=True)
    if not files:
        return Verdict()
    try:
        ran = subprocess.run(
            [str(program), "check", "rules", *map(str, files)],
            capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return Verdict(is_missing=True)
    if ran.returncode == 0:
        return Verdict()
    said = ran.stdout + ran.stderr
    for folder in {file.parent for file in files}:
        said = said.replace(f"{folder}{os.sep}", "")
    lines = [
        line.strip() for line in said.splitlines() if line.strip() and not re.match(r"(Checking|SUCCESS)", line.strip())
    ]
    kept = " ".join(line for line in lines if line != "FAILED:")
    return Verdict(kept[:MAX_SAID] or f"promtool: {ran.returncode}")


def position(expression: str) -> Position | None:
    """Where an expression goes wrong by Prometheus' own parser; None when it does not, or there is no promtool."""
    if find() is None:
        return None
    with tempfile.TemporaryDirectory(prefix="ark-promtool-") as folder:
        file = Path(folder, "expression.json")
        rule = {"alert": "expression", "expr": expression}
        file.write_text(json.dumps({"groups": [{"name": "expression", "rules": [rule]}]}), encoding="utf-8")
        verdict = check([file])
    if verdict.is_ok:
        return None
    said = re.search(r"could not parse expression: (\d+):(\d+): (?:parse error: )?(.*)", verdict.said)
    if said is None:
        return Position(1, 1, verdict.said)
    return Position(int(said[1]), int(said[2]), said[3])
