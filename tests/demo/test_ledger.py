from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demo import ledger as ledger_module
from demo.ledger import Call, Ledger, StateError


def begin(ledger: Ledger, request_id: str = "r", **more: Any) -> Call:
    given = {
        "model": "m",
        "api": "chat",
        "is_stream": True,
        "prompt_tokens": 5,
        "cached_tokens": 2,
        "now": 100.0,
    } | more
    return ledger.begin(request_id=request_id, **given)


def test_counts_outlive_the_process(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "journal")
    for outcome, status in (("ok", 200), ("error", 500), ("cancelled", 499), ("cut", 200)):
        call = begin(first, outcome)
        first.progress(call, 7, 3)
        first.end(call, outcome, status, 101.5)  # type: ignore[arg-type]
    first.close()
    second = Ledger(tmp_path / "journal")
    assert second.models == first.models
    assert list(second.recent) == list(first.recent)
    assert begin(second).sequence == 5
    second.close()


def test_a_call_that_the_server_died_in_is_counted_with_what_it_had_sent(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "journal")
    lost = begin(first, "lost")
    done = begin(first, "done")
    first.progress(lost, 12, 4)
    first.progress(done, 9, 0)
    first.end(done, "ok", 200, 101.0)
    # The slot of the call that is done is used by the next one, as it would be in a busy server.
    fresh = begin(first, "fresh")
    first.progress(fresh, 1, 0)
    first.close()
    second = Ledger(tmp_path / "journal")
    tokens = {call.request_id: (call.outcome, call.completion_tokens, call.reasoning_tokens) for call in second.recent}
    assert tokens == {"lost": ("lost", 12, 4), "done": ("ok", 9, 0), "fresh": ("lost", 1, 0)}
    assert (second.totals().running, second.totals().lost, second.totals().completion_tokens) == (0, 2, 22)
    second.close()
    third = Ledger(tmp_path / "journal")
    assert third.totals() == second.totals()
    third.close()


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Ledger(path)
    first.end(begin(first), "ok", 200, 101.0)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"begin":{"sequ')
    second = Ledger(path)
    second.end(begin(second), "ok", 200, 101.0)
    second.close()
    third = Ledger(path)
    assert third.totals().ok == 2
    third.close()


def test_a_large_journal_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    first = Ledger(path, max_recent=3)
    for number in range(10):
        first.end(begin(first, str(number)), "ok", 200, 101.0)
    begin(first, "open")
    first.close()
    size = path.stat().st_size
    monkeypatch.setattr(ledger_module, "_COMPACT_BYTES", 100)
    second = Ledger(path, max_recent=3)
    assert path.stat().st_size < size
    second.end(begin(second, "after"), "ok", 200, 101.0)
    second.close()
    third = Ledger(path, max_recent=3)
    assert (third.totals().ok, third.totals().lost, third.totals().running) == (11, 1, 0)
    assert [call.request_id for call in third.recent] == ["9", "open", "after"]
    third.close()


def test_a_reset_is_remembered_and_keeps_what_is_running(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "journal")
    first.end(begin(first), "ok", 200, 101.0)
    running = begin(first, "running")
    first.reset()
    assert (first.totals().calls, first.totals().running) == (1, 1)
    first.end(running, "ok", 200, 101.0)
    first.close()
    second = Ledger(tmp_path / "journal")
    assert second.models == first.models
    second.close()


def test_a_state_file_in_use_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    held = Ledger(tmp_path / "journal")
    with pytest.raises(StateError, match="in use by another demo server"):
        Ledger(tmp_path / "journal")
    held.close()
    (tmp_path / "letter").write_text("Dear reader,\nhello\n")
    with pytest.raises(StateError, match="not a journal of the demo server"):
        Ledger(tmp_path / "letter")
    with pytest.raises(StateError, match="cannot be opened"):
        Ledger(tmp_path)


def test_only_the_last_calls_are_kept_one_by_one() -> None:
    ledger = Ledger(max_recent=2)
    for number in range(5):
        ledger.end(begin(ledger, str(number)), "ok", 200, 101.0)
    assert [call.request_id for call in ledger.calls(limit=10)] == ["4", "3"]
    assert ledger.totals().ok == 5
