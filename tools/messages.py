"""Keeps the translations true: `make messages` collects every sentence, `--check` fails on a missing one.

    messages.py             update locale/*/LC_MESSAGES/django.po from the code and the templates
    messages.py --check     exit 1, naming them, when sentences are missing, empty, fuzzy or no longer used
    messages.py --compile   write django.mo where django.po is newer (or came with a clone)

Babel does it all, so that gettext need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "arkconsole",
    "alerts",
    "monitoring",
    "gateway",
    "endpoints",
    "metering",
    "catalog",
    "iam",
    "audit",
    "common",
    "templates",
)
KEYWORDS = {
    "_": None,
    "gettext": None,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext": (1, 2),
    "ngettext_lazy": (1, 2),
    "pgettext": ((1, "c"), 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
    "npgettext_lazy": ((1, "c"), 2, 3),
}
# No dates and no names: they would change in every diff and merge.
HEADER = """\
msgid ""
msgstr ""
"Project-Id-Version: ArkConsole\\n"
"Language: {language}\\n"
"Plural-Forms: {plural_forms}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"""


def catalogs() -> list[Path]:
    return sorted(ROOT.glob("locale/*/LC_MESSAGES/django.po"))


def sources() -> Iterator[tuple[str, bytes]]:
    """Each Python file and template of ours, as Python source that Babel can read."""
    from django.utils.translation import template

    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".py" and "/migrations/" not in name:
                yield name, path.read_bytes()
            elif path.suffix in {".html", ".txt"} and "templates" in path.parts:
                text = template.templatize(path.read_text(encoding="utf-8"), origin=name)
                # What is left of the page is blanked out but indented, which Python would take to heart.
                yield name, "\n".join(line.strip() for line in text.splitlines()).encode()


def collected() -> Catalog:
    """Every sentence in the code and the templates, with the files it stands in (no lines: small diffs)."""
    from django.conf import settings

    if not settings.configured:
        settings.configure(USE_I18N=False)
    catalog = Catalog(domain="django", charset="utf-8")
    for name, source in sources():
        for line, ids, comments, context in extract("python", BytesIO(source), KEYWORDS, ("Translators:",)):
            if not (ids[0] if isinstance(ids, tuple) else ids):
                raise SystemExit(f"{name}:{line}: an empty sentence cannot be translated")
            catalog.add(ids, locations=[(name, 0)], auto_comments=comments, context=context)
    return catalog


def is_translated(message: Message, plurals: int) -> bool:
    texts = message.string if isinstance(message.string, (list, tuple)) else [message.string]
    return all(texts) and not message.fuzzy and (not message.pluralizable or len(texts) >= plurals)


def update(path: Path) -> None:
    with path.open("rb") as file:
        old = read_po(file, locale=path.parent.parent.name, domain="django")
    new = Catalog(locale=old.locale, domain="django", charset="utf-8", fuzzy=False)
    for message in collected():
        if message.id:
            kept = old.get(message.id, message.context)
            new.add(
                message.id,
                string=kept.string if kept else None,
                locations=[(name, None) for name in sorted({name for name, _ in message.locations})],
                flags=kept.flags if kept else (),
                auto_comments=sorted(set(message.auto_comments)),
                user_comments=kept.user_comments if kept else (),
                context=message.context,
            )
    out = BytesIO()
    write_po(out, new, width=120, sort_by_file=True, omit_header=True, include_lineno=False)
    header = HEADER.format(language=old.locale, plural_forms=old.plural_forms)
    path.write_text(f"{header}\n{out.getvalue().decode().strip()}\n", encoding="utf-8")


def check(path: Path) -> list[str]:
    """One line for each sentence that a reader of this language would miss."""
    with path.open("rb") as file:
        have = read_po(file, locale=path.parent.parent.name, domain="django")
    wanted = collected()
    name = path.relative_to(ROOT)
    found = []
    for message in wanted:
        if message.id:
            there = have.get(message.id, message.context)
            where = message.locations[0][0] if message.locations else ""
            if there is None:
                found.append(f"{name}: missing: {message.id!r} ({where})")
            elif not is_translated(there, have.num_plurals):
                found.append(f"{name}: {'fuzzy' if there.fuzzy else 'empty'}: {message.id!r} ({where})")
            else:
                found += [f"{name}: {message.id!r}: {error}" for error in there.check(have)]
    found += [
        f"{name}: no longer used: {message.id!r}"
        for message in have
        if message.id and wanted.get(message.id, message.context) is None
    ]
    return found


def compile_newer() -> None:
    for path in catalogs():
        target = path.with_suffix(".mo")
        if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
            continue
        with path.open("rb") as file:
            catalog = read_po(file, locale=path.parent.parent.name, domain="django")
        out = BytesIO()
        write_mo(out, catalog)
        target.write_bytes(out.getvalue())


def main() -> int:
    if "--compile" in sys.argv:
        compile_newer()
        return 0
    if "--check" in sys.argv:
        found = [line for path in catalogs() for line in check(path)]
        print("\n".join(found) or "Every sentence is translated.")
        return 1 if found else 0
    for path in catalogs():
        update(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
