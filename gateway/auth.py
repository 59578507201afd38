"""Who calls: API keys by digest, from where, and what they may call."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable
from functools import lru_cache

from gateway import errors
from gateway.routes import EndpointRoute, KeyRoute, Negative, Reader, Source, VersionRoute

KEYS_MAX = 20_000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class KeyRing:
    """Keys that were used lately; the others are looked up once. Known keys go on while the database is away."""

    def __init__(self, source: Source, reader: Reader, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._reader = reader
        self._keys: dict[bytes, KeyRoute] = {}
        self._digests: dict[int, bytes] = {}
        self._missing: Negative[bytes] = Negative(clock)
        self._generation = 0

    def known(self, token: bytes) -> KeyRoute | None:
        """The key, if it needs no look-up."""
        return self._keys.get(hashlib.sha256(token).digest())

    async def find(self, token: bytes) -> KeyRoute | None:
        """The key, None when there is no such key. Raises `SourceAway`."""
        digest = hashlib.sha256(token).digest()
        known = self._keys.get(digest)
        if known is not None or digest in self._missing:
            return known

        async def look() -> KeyRoute | None:
            generation = self._generation
            found = await self._reader.look_up(self._source.key, digest)
            if generation != self._generation:
                return found  # changed meanwhile: good for this call, not to be kept
            if found is None:
                self._missing.add(digest)
            else:
                self._put(digest, found)
            return found

        return await self._reader.once(("key", digest), look)

    def changed(self, ids: list[int]) -> None:
        """Forget these keys (all when empty), and what was thought not to exist."""
        self._generation += 1
        self._missing.clear()
        if not ids:
            self._keys.clear()
            self._digests.clear()
        for key_id in ids:
            digest = self._digests.pop(key_id, None)
            if digest is not None:
                self._keys.pop(digest, None)

    def _put(self, digest: bytes, key: KeyRoute) -> None:
        while len(self._keys) >= KEYS_MAX:
            oldest = next(iter(self._keys))
            self._digests.pop(self._keys.pop(oldest).id, None)
        self._keys[digest] = key
        self._digests[key.id] = digest


def bearer(header: bytes | None) -> bytes:
    """The token of an `Authorization` header. Raises `Refusal` (401) when there is none."""
    if header is None:
        raise errors.bad_key()
    scheme, _space, token = header.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token or len(token) > 512:
        raise errors.bad_key()
    return token


def check(key: KeyRoute | None, *, now: float, address: str) -> KeyRoute:
    """The key, if it may be used at `now` (epoch seconds) from `address`. Raises `Refusal`."""
    if key is None or not key.is_enabled or (key.expires_at is not None and key.expires_at <= now):
        raise errors.bad_key()
    if key.networks is not None:
        peer = parse_address(address)
        if peer is None or not any(peer in network for network in key.networks):
            raise errors.access_denied()
    return key


def may_call(key: KeyRoute, endpoint: EndpointRoute, version: VersionRoute | None) -> bool:
    """Whether the key's scope holds the endpoint, by its id or by its model id."""
    scopes = key.scopes
    if scopes is None:
        return True
    if ("endpoint", endpoint.id) in scopes or ("presetendpoint", endpoint.id) in scopes:
        return True
    if version is None or not endpoint.is_preset:
        return False
    return ("model", version.model_id) in scopes or ("presetendpoint", version.model_id) in scopes


def may_call_model(key: KeyRoute, version: VersionRoute) -> bool:
    """Whether the key's scope holds the model id itself (its preset endpoint may not exist yet)."""
    return key.scopes is None or any((kind, version.model_id) in key.scopes for kind in ("model", "presetendpoint"))


def networks(texts: list[str]) -> tuple[Network, ...] | None:
    """Addresses and networks as text, parsed; None for an empty list. What cannot be read matches nothing."""
    if not texts:
        return None
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            continue
    return tuple(found)


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """An address, IPv4 also when it came mapped into IPv6; None when it is none."""
    try:
        address = ipaddress.ip_address(text.strip().split("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def caller_address(peer: str, forwarded_for: bytes | None, trusted: tuple[Network, ...] | None) -> str:
    """Where the call comes from: the peer, or, when the peer is a trusted proxy, the last address that is not one."""
    if not trusted or forwarded_for is None:
        return peer
    at = peer
    hops = forwarded_for.decode("latin-1").split(",")
    while True:
        address = parse_address(at)
        if address is None or not any(address in network for network in trusted) or not hops:
            return at
        hop = hops.pop().strip()
        if parse_address(hop) is None:
            return at
        at = hop
