"""Addresses that people type: where we may connect, checked after DNS and held to at connect time."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from django.utils.translation import gettext as _

from common.errors import DomainError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Cloud metadata services beyond link-local: AWS IPv6, Alibaba, Oracle/Volcengine share 169.254 (link-local) already.
_METADATA = {ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")}


class UnsafeAddress(DomainError):
    """The address, or one it resolves to, is one that we never connect to."""


def is_forbidden(address: IPAddress) -> bool:
    """Link-local, metadata, multicast, unspecified and reserved addresses; private and loopback ones are fine."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return is_forbidden(inner)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return is_forbidden(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback)
        or address in _METADATA
    )


def is_public(address: IPAddress) -> bool:
    """Whether the whole Internet reaches it: not forbidden, private, loopback or shared (carrier-grade NAT)."""
    if is_forbidden(address):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global


def check_url(url: str) -> str:
    """Return `url` tidied (no trailing slash), or raise `UnsafeAddress`. Does not ask DNS; `resolve` does."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise UnsafeAddress(
            _("This is not an address. Write it like http://10.0.0.5:8000/v1"), field="base_url"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnsafeAddress(_("The address must begin with http:// or https:// and name a host."), field="base_url")
    if parts.username or parts.password:
        raise UnsafeAddress(_("Put the key into its own field, not into the address."), field="base_url")
    if parts.query or parts.fragment:
        raise UnsafeAddress(_("The address must end with its path, without ? or #."), field="base_url")
    if port == 0:
        raise UnsafeAddress(_("Port 0 cannot be called."), field="base_url")
    try:
        literal = ipaddress.ip_address(parts.hostname.split("%")[0])
    except ValueError:
        return url.strip().rstrip("/")
    if is_forbidden(literal):
        raise UnsafeAddress(
            _("This address is link-local, a metadata service or reserved; we never call it."), field="base_url"
        )
    return url.strip().rstrip("/")


def resolve(host: str, port: int) -> list[str]:
    """Every address of `host` that may be connected to, in the resolver's order. Blocking; run it off any event loop.

    Raises `UnsafeAddress` when *any* answer is forbidden (a host that mixes good and forbidden answers is an attack,
    not a mistake), and `OSError` when the name does not resolve.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[str] = []
    for *_rest, sockaddr in answers:
        text = str(sockaddr[0])
        if is_forbidden(ipaddress.ip_address(text.split("%")[0])):
            raise UnsafeAddress(
                _("%(host)s resolves to %(address)s, which we never call.") % {"host": host, "address": text},
                field="base_url",
            )
        if text not in found:
            found.append(text)
    return found
