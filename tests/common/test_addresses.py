"""Where we may connect: private addresses yes, link-local and metadata ones never, however they are written."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from common.addresses import UnsafeAddress, check_url, is_forbidden, resolve


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5:8000/v1",
        "http://127.0.0.1:11434/v1",
        "http://localhost:8000/v1",
        "http://[::1]:8000/v1",
        "http://[fd12:3456::1]:8000/v1",
        "https://192.168.1.20/v1",
        "https://api.deepseek.com/v1",
        "http://vllm.internal:8000",
    ],
)
def test_the_addresses_of_model_servers_are_fine(url: str) -> None:
    assert check_url(f" {url}/ ") == url


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[2002:a9fe:a9fe::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
        "240.0.0.1",
    ],
)
def test_forbidden_addresses_are_refused_as_they_are_typed(host: str) -> None:
    with pytest.raises(UnsafeAddress):
        check_url(f"http://{host}:80/v1")


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.16689662", "0xa9.0xfe.0xa9.0xfe"]
)
def test_other_spellings_of_the_metadata_address_are_refused_when_they_resolve(host: str) -> None:
    """They are no literals to us, but the resolver reads them as one: the check after DNS decides."""
    with pytest.raises(UnsafeAddress):
        resolve(host, 80)


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433"])
def test_other_spellings_of_loopback_resolve_to_loopback(host: str) -> None:
    assert resolve(host, 80) == ["127.0.0.1"]


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """A resolver with these answers."""

    def getaddrinfo(host: str, port: int, **_options: Any) -> list[Any]:
        family = [socket.AF_INET6 if ":" in answer else socket.AF_INET for answer in answers]
        return [(kind, socket.SOCK_STREAM, 6, "", (answer, port)) for kind, answer in zip(family, answers, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_resolves_to_each_of_its_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "10.0.0.5", "10.0.0.6", "10.0.0.5", "fd12::1")

    assert resolve("vllm.internal", 8000) == ["10.0.0.5", "10.0.0.6", "fd12::1"]


@pytest.mark.parametrize(
    "answers",
    [
        ["169.254.169.254"],
        ["10.0.0.5", "169.254.169.254"],
        ["::ffff:169.254.169.254"],
        ["fe80::1%2"],
        ["fd00:ec2::254"],
    ],
)
def test_one_forbidden_answer_is_enough_to_refuse_a_name(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    answering(monkeypatch, *answers)

    with pytest.raises(UnsafeAddress, match="resolves to"):
        resolve("rebind.example.com", 80)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("10.0.0.5:8000", "must begin with http"),
        ("ftp://10.0.0.5/", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://", "name a host"),
        ("http://user:pw@10.0.0.5/v1", "own field"),
        ("http://10.0.0.5/v1?key=1", "without \\? or #"),
        ("http://10.0.0.5/v1#x", "without \\? or #"),
        ("http://10.0.0.5:0/v1", "Port 0"),
        ("http://10.0.0.5:99999/v1", "not an address"),
        ("http://[::1/v1", "not an address"),
    ],
)
def test_what_is_no_address_is_explained(url: str, says: str) -> None:
    with pytest.raises(UnsafeAddress, match=says) as caught:
        check_url(url)

    assert caught.value.field == "base_url"


def test_every_kind_of_wrapped_address_is_unwrapped() -> None:
    import ipaddress

    wrapped = [
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "2001:0:4136:e378:8000:63bf:5601:5601",
    ]

    assert [text for text in wrapped if not is_forbidden(ipaddress.ip_address(text))] == []
