from __future__ import annotations

import socket
from pathlib import Path

from gateway.slots import Slot, listen


def test_a_worker_that_replaces_a_dead_one_listens_where_that_one_did(tmp_path: Path) -> None:
    first, second, third = (Slot(tmp_path / "ports") for _number in range(3))
    with first.listen("127.0.0.1") as one, second.listen("127.0.0.1") as two:
        ports = [listener.getsockname()[1] for listener in (one, two)]
        assert len(set(ports)) == 2
    second.release()
    with third.listen("127.0.0.1") as listener:
        assert listener.getsockname()[1] == ports[1]
    third.release()
    first.release()


def test_where_its_port_was_taken_meanwhile_it_takes_another_and_keeps_that(tmp_path: Path) -> None:
    ports = []
    with socket.socket() as thief:
        for number in range(3):
            slot = Slot(tmp_path)
            with slot.listen("127.0.0.1") as listener:
                ports.append(listener.getsockname()[1])
            slot.release()
            if not number:
                thief.bind(("127.0.0.1", ports[0]))
                thief.listen()
    assert ports[0] != ports[1] == ports[2]


def test_without_a_folder_or_with_nonsense_in_it_any_port_will_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "0").write_text("no port")
    for folder in (tmp_path / "file" / "ports", tmp_path):
        slot = Slot(folder)
        with slot.listen("127.0.0.1") as listener:
            assert listener.getsockname()[1] > 0
        slot.release()


def test_a_worker_may_listen_on_every_address_of_the_machine() -> None:
    with listen("0.0.0.0", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
