"""The tool that keeps translations complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers import ROOT

HEADER = """\
msgid ""
msgstr ""
"Language: zh_Hans\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"
"Content-Type: text/plain; charset=utf-8\\n"

"""


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, on a project of one page, one view and an empty Chinese catalogue."""
    spec = importlib.util.spec_from_file_location("messages_under_test", ROOT / "tools" / "messages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "iam").mkdir()
    (tmp_path / "iam" / "views.py").write_text('from x import gettext as _\n_("Signed in as %(name)s")\n')
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.html").write_text(
        '{% load i18n %}\n  <p title="{% translate "Stop" %}">\n'
        "   {% blocktranslate trimmed count n=n %}\n   One call\n   {% plural %}\n   {{ n }} calls\n   {% endblocktranslate %}\n</p>\n"
    )
    (tmp_path / "locale" / "zh_Hans" / "LC_MESSAGES").mkdir(parents=True)
    po(module).write_text(HEADER)
    return module


def po(messages: ModuleType) -> Path:
    root: Path = messages.ROOT
    return root / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"


def translate(messages: ModuleType, msgid: str, msgstr: str) -> None:
    text = po(messages).read_text()
    assert f'msgid "{msgid}"\nmsgstr ""' in text
    po(messages).write_text(text.replace(f'msgid "{msgid}"\nmsgstr ""', f'msgid "{msgid}"\nmsgstr "{msgstr}"'))


def test_sentences_of_code_and_templates_are_collected_once_and_stay_put(messages: ModuleType) -> None:
    messages.update(po(messages))
    first = po(messages).read_text()
    for wanted in ('msgid "Signed in as %(name)s"', 'msgid "Stop"', 'msgid "One call"\nmsgid_plural "%(n)s calls"'):
        assert first.count(wanted) == 1
    messages.update(po(messages))
    assert po(messages).read_text() == first


def test_translations_are_kept(messages: ModuleType) -> None:
    messages.update(po(messages))
    translate(messages, "Stop", "停用")
    messages.update(po(messages))
    assert 'msgid "Stop"\nmsgstr "停用"' in po(messages).read_text()


def test_what_a_reader_would_miss_is_named(messages: ModuleType) -> None:
    assert len([line for line in messages.check(po(messages)) if "missing" in line]) == 3
    messages.update(po(messages))
    translate(messages, "Stop", "停用")
    found = messages.check(po(messages))
    assert len(found) == 2
    assert all(": empty: " in line for line in found)
    text = po(messages).read_text()
    po(messages).write_text(text.replace('msgid "Stop"', '#, fuzzy\nmsgid "Stop"') + '\nmsgid "Gone"\nmsgstr "没了"\n')
    found = "\n".join(messages.check(po(messages)))
    assert "fuzzy: 'Stop' (templates/page.html)" in found
    assert "no longer used: 'Gone'" in found


def test_a_lost_placeholder_is_named(messages: ModuleType) -> None:
    messages.update(po(messages))
    translate(messages, "Signed in as %(name)s", "已登录为 %(nom)s")
    assert any("Signed in as" in line for line in messages.check(po(messages)))


def test_the_compiled_catalogue_speaks_chinese(messages: ModuleType) -> None:
    import gettext

    messages.update(po(messages))
    translate(messages, "Stop", "停用")
    messages.compile_newer()
    with po(messages).with_suffix(".mo").open("rb") as file:
        assert gettext.GNUTranslations(file).gettext("Stop") == "停用"
