from __future__ import annotations

import pytest

from gateway import auth
from gateway.errors import Refusal
from gateway.routes import EndpointRoute, KeyRoute, VersionRoute

VERSION = VersionRoute(1, "demo-fast-251001", b'"demo-fast-251001"', "demo-fast", "chat", 100, 0, ())
CUSTOM = EndpointRoute("ep-1", "default", 1, 0, 0, "Running", is_preset=False)
PRESET = EndpointRoute("ep-m-1", "default", 1, 0, 0, "Running", is_preset=True)


def key(**fields: object) -> KeyRoute:
    defaults = {
        "id": 1, "digest": b"", "project_id": "default", "is_enabled": True, "expires_at": None, "networks": None,
        "scopes": None,
    }  # fmt: skip
    return KeyRoute(**{**defaults, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "token"), [(b"Bearer abc", b"abc"), (b"bearer  abc ", b"abc"), (b"BEARER a-b.c", b"a-b.c")]
)
def test_a_bearer_token_is_read(header: bytes, token: bytes) -> None:
    assert auth.bearer(header) == token


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer ", b"Basic abc", b"abc", b"Bearer " + b"x" * 1000])
def test_without_a_token_the_caller_is_unknown(header: bytes | None) -> None:
    with pytest.raises(Refusal) as caught:
        auth.bearer(header)
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (None, 401),
        (key(is_enabled=False), 401),
        (key(expires_at=100.0), 401),
        (key(networks=auth.networks(["10.0.0.0/8"])), 403),
        (key(networks=auth.networks(["not a network"])), 403),
        (key(), None),
        (key(expires_at=100.5), None),
        (key(networks=auth.networks(["192.0.2.7"])), None),
        (key(networks=auth.networks(["10.0.0.0/8", "192.0.2.0/24"])), None),
    ],
)
def test_a_key_works_only_while_enabled_in_time_and_from_its_addresses(
    found: KeyRoute | None, status: int | None
) -> None:
    if status is None:
        assert auth.check(found, now=100.0, address="192.0.2.7") is found
        return
    with pytest.raises(Refusal) as caught:
        auth.check(found, now=100.0, address="192.0.2.7")
    assert caught.value.status == status


def test_an_ipv4_address_mapped_into_ipv6_is_the_same_address() -> None:
    found = key(networks=auth.networks(["192.0.2.0/24"]))
    assert auth.check(found, now=0.0, address="::ffff:192.0.2.7") is found


@pytest.mark.parametrize(
    ("scopes", "custom", "preset", "model"),
    [
        (None, True, True, True),
        ({("endpoint", "ep-1")}, True, False, False),
        ({("presetendpoint", "ep-m-1")}, False, True, False),
        ({("endpoint", "ep-m-1")}, False, True, False),
        ({("model", "demo-fast-251001")}, False, True, True),
        ({("presetendpoint", "demo-fast-251001")}, False, True, True),
        ({("model", "another-1")}, False, False, False),
    ],
)
def test_a_scope_holds_endpoints_by_id_and_models_by_their_preset_endpoint(
    scopes: set[tuple[str, str]] | None, custom: bool, preset: bool, model: bool
) -> None:
    scoped = key(scopes=None if scopes is None else frozenset(scopes))
    assert auth.may_call(scoped, CUSTOM, VERSION) is custom
    assert auth.may_call(scoped, PRESET, VERSION) is preset
    assert auth.may_call_model(scoped, VERSION) is model


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("192.0.2.1", b"10.9.9.9", [], "192.0.2.1"),
        ("192.0.2.1", b"10.9.9.9", ["10.0.0.1"], "192.0.2.1"),
        ("10.0.0.1", b"198.51.100.7", ["10.0.0.1"], "198.51.100.7"),
        ("10.0.0.1", b"1.2.3.4, 198.51.100.7", ["10.0.0.1"], "198.51.100.7"),
        ("10.0.0.1", b"198.51.100.7, 10.0.0.2", ["10.0.0.0/24"], "198.51.100.7"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", ["10.0.0.0/24"], "10.0.0.3"),
        ("10.0.0.1", b"nonsense", ["10.0.0.1"], "10.0.0.1"),
        ("10.0.0.1", None, ["10.0.0.1"], "10.0.0.1"),
    ],
)
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    peer: str, forwarded: bytes | None, trusted: list[str], expected: str
) -> None:
    assert auth.caller_address(peer, forwarded, auth.networks(trusted)) == expected
