"""Prometheus and Alertmanager of `manage.py up`: which program it is, and getting one where the machine has none.

    python -m arkconsole.prometheus_server FOLDER NOTE [PACKAGE]

gets Debian's package into FOLDER (`bin/prometheus`, `bin/promtool`): downloaded and unpacked, never installed, since
installing it would start a service on a user's machine. Where that cannot be done, the reason is in the file NOTE.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arkconsole.supervisor import UpError
from monitoring.installation import Installation, Presence, WhyOff, note

SILENCE_SECONDS = 5
GET_SECONDS = 240
BREW_FOLDERS = ("/opt/homebrew/bin", "/usr/local/bin")


@dataclass(frozen=True, slots=True)
class Package:
    """One server as Debian packs it. `names` are what its program is called, here and elsewhere, Debian's first.

    `share` is a folder of the package that its program looks for at this very place of the machine, "" for none.
    """

    name: str
    title: str
    names: tuple[str, ...]
    tool: str
    oldest: tuple[int, int]
    setting: str
    says: str
    share: str = ""

    @property
    def program(self) -> str:
        return self.names[0]


PROMETHEUS = Package(
    "prometheus",
    "Prometheus",
    ("prometheus",),
    "promtool",
    (2, 28),  # http_sd_configs
    "PROMETHEUS_BIN",
    "prometheus, version",
)
ALERTMANAGER = Package(
    "prometheus-alertmanager",
    "Alertmanager",
    ("prometheus-alertmanager", "alertmanager"),
    "amtool",
    (0, 22),  # matchers, credentials_file
    "ALERTMANAGER_BIN",
    "alertmanager, version",
    share="/usr/share/prometheus/alertmanager",
)
PACKAGES = {package.name: package for package in (PROMETHEUS, ALERTMANAGER)}


class CannotGet(Exception):
    """Why there is no such server here."""

    def __init__(self, why: WhyOff, detail: str = "") -> None:
        super().__init__(why, detail)
        self.why, self.detail = why, detail


def find(wanted: str, folder: Path, package: Package = PROMETHEUS) -> Path | None:
    """The program to run: `wanted` (PROMETHEUS_BIN), else the machine's own, else what an earlier start got into `folder`.

    None: there is none yet. Raises `UpError` when `wanted` is no such server that we can run, `CannotGet` when the
    machine's own is too old.
    """
    if wanted:
        return _named(wanted, package)
    path = os.pathsep.join([*os.get_exec_path(), *(BREW_FOLDERS if sys.platform == "darwin" else ())])
    for name in package.names:
        own = shutil.which(name, path=path)
        if own and (text := version(own, package)):
            if _numbers(text) < package.oldest:
                raise CannotGet(WhyOff.TOO_OLD, f"{own}, {text}")
            return Path(own)
    kept = folder / "bin" / package.program
    return kept if os.access(kept, os.X_OK) else None


def _named(wanted: str, package: Package) -> Path:
    found = shutil.which(wanted)
    if found is None:
        trouble = "may not be executed" if Path(wanted).exists() else "does not exist"
        raise UpError(f"{package.setting}={wanted!r} {trouble}; name the program `{package.names[-1]}` itself.")
    text = version(found, package)
    if not text:
        article = "an" if package.title[0] in "AEIOU" else "a"
        raise UpError(f"{package.setting}={wanted!r} is not {article} {package.title}: it does not say its version.")
    if _numbers(text) < package.oldest:
        needed = ".".join(str(number) for number in package.oldest)
        raise UpError(f"{package.setting}={wanted!r} is too old: {text}, and {needed} is needed.")
    # It is run in its own folder.
    return Path(found).absolute()


def version(program: str | Path, package: Package = PROMETHEUS) -> str:
    """What it calls its version, such as "2.42.0+ds"; "" when it is no such server or cannot be run here."""
    try:
        ran = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    # Very old ones said it on the error output.
    said = re.match(rf"{package.says} (\d\S*)", ran.stdout or ran.stderr)
    return said[1] if said else ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def why_not_gettable() -> CannotGet | None:
    """Whether to try at all: None where Debian's tools are."""
    if sys.platform == "darwin":
        return CannotGet(WhyOff.MACOS)
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    return CannotGet(WhyOff.NO_PACKAGE, f"no {missing[0]}") if missing else None


# --- getting it -------------------------------------------------------------------------------------------------------


def get(folder: Path, package: Package = PROMETHEUS) -> Path:
    """Download and unpack Debian's package into `folder`; return the program. Needs neither root nor package lists.

    Raises `CannotGet`. What an attempt leaves behind when it is killed, the next one removes.
    """
    if reason := why_not_gettable():
        raise reason
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("getting-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="getting-", dir=folder) as made:
            room = Path(made)
            unpacked = _unpack(_download(room, package), room, package)
            if not version(unpacked / package.program, package):
                raise CannotGet(WhyOff.NO_PACKAGE, "the program of the package does not run on this machine")
            _put(unpacked, folder / "bin")
    except OSError as error:
        raise CannotGet(WhyOff.NO_PACKAGE, str(error)) from None
    return folder / "bin" / package.program


def _put(unpacked: Path, kept: Path) -> None:
    """A reader finds all of the old programs or all of the new ones."""
    old = unpacked.with_name("old")
    with contextlib.suppress(FileNotFoundError):
        kept.rename(old)
    unpacked.rename(kept)


def _download(room: Path, package: Package) -> Path:
    first = _apt(room, "download", package.name)
    if found := _package(room, package):
        return found
    if _is_network_trouble(first):
        raise CannotGet(WhyOff.DOWNLOAD, _what_it_said(first))
    # No package lists, as in a fresh container, or so old that the file is gone: lists of our own, thrown away afterwards.
    for inner in ("state/lists/partial", "cache/archives/partial"):
        (room / inner).mkdir(parents=True)
    own = (
        *("-o", f"Dir::State={room / 'state'}", "-o", f"Dir::Cache={room / 'cache'}"),
        *("-o", f"Dir::State::lists={room / 'state' / 'lists'}", "-o", "Dir::State::status=/var/lib/dpkg/status"),
        *("-o", "Acquire::Languages=none"),
    )
    updated = _apt(room, *own, "update")
    second = _apt(room, *own, "download", package.name)
    if found := _package(room, package):
        return found
    if _is_network_trouble(updated) or _is_network_trouble(second):
        raise CannotGet(WhyOff.DOWNLOAD, _what_it_said(f"{updated}\n{second}"))
    raise CannotGet(WhyOff.NO_PACKAGE, _what_it_said(second or updated))


def _apt(room: Path, *command: str) -> str:
    """Run apt-get without touching the machine's state; return what it said. A server that is silent is given up soon."""
    patience = str(SILENCE_SECONDS)
    options = (
        *("-q", "-o", f"Acquire::http::Timeout={patience}", "-o", f"Acquire::https::Timeout={patience}"),
        *("-o", "Acquire::Retries=0", "-o", "APT::Sandbox::User=root"),
    )
    try:
        ran = subprocess.run(
            ["apt-get", *options, *command], cwd=room, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=GET_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"E: Connection timed out: not done after {GET_SECONDS} s"
    sys.stdout.write(ran.stdout)
    return ran.stdout


def _package(room: Path, package: Package) -> Path | None:
    return next(iter(room.glob(f"{package.name}_*.deb")), None)


def _unpack(file: Path, room: Path, package: Package) -> Path:
    ran = subprocess.run(
        ["dpkg-deb", "--extract", str(file), str(room / "all")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise CannotGet(WhyOff.NO_PACKAGE, _what_it_said(ran.stderr))
    programs = room / "bin"
    programs.mkdir()
    for name in (package.program, package.tool):
        (room / "all" / "usr" / "bin" / name).rename(programs / name)
    if package.share:
        _look_beside_itself(programs / package.program, room / "all", package.share)
    return programs


def _look_beside_itself(program: Path, unpacked: Path, share: str) -> None:
    """Have a program that is installed nowhere find its files in the folder where it is run, which is its own.

    Debian's Alertmanager does not start without its templates, and the place where it reads them can be set by no option:
    it is a constant of the program. Ours is as long, and means "here".
    """
    for file in (unpacked / share.lstrip("/")).glob("*.tmpl"):
        file.rename(program.with_name(file.name))
    old = share.encode()
    here = (b"./" * len(old))[: len(old)]
    program.write_bytes(re.sub(re.escape(old) + rb"(?!/)", here, program.read_bytes()))


def _is_network_trouble(said: str) -> bool:
    return bool(
        re.search(r"resolve|resolution|[Cc]ould not connect|[Uu]nable to connect|timed out|unreachable|[Ff]ailed", said)
        and not re.search(r"404 +Not Found|Hash Sum", said)
    )


def _what_it_said(said: str) -> str:
    """The first complaint of apt or dpkg, in one short line."""
    complaints = re.findall(r"^(?:E|W|dpkg-deb): *(?:Failed to fetch \S+ *)?(.+)$", said, re.MULTILINE)
    return (complaints or said.strip().splitlines()[-1:] or ["it said nothing"])[0][:200]


# --- the step of the process table ------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Get it; 0 when it is there, else 1 with the reason noted for the console and for `up`."""
    folder, noted = Path(arguments[0]), Path(arguments[1])
    try:
        get(folder, PACKAGES[arguments[2]] if len(arguments) > 2 else PROMETHEUS)
    except CannotGet as error:
        sys.stdout.write(f"{error.why}: {error.detail}\n")
        half = noted.with_name(f"{noted.name}.step")
        half.write_text(note(Installation(Presence.OFF, why=error.why, detail=error.detail)), encoding="utf-8")
        half.replace(noted)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
