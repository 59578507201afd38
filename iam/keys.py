"""API keys as text: how they are made, recognised and restricted. Pure; rows are made in `iam.services`."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import string
from collections.abc import Iterable

from django.utils.translation import gettext as _

from common.errors import DomainError

# A fixed beginning lets secret scanners, and people who find one in a log, tell what it is.
PREFIX = "sk-ark-"
SECRET_LENGTH = 40
SHOWN_LENGTH = len(PREFIX) + 4
MAX_NETWORKS = 50
_ALPHABET = string.ascii_letters + string.digits


def generate() -> str:
    """A new key: `sk-ark-` and 40 letters and digits, 238 bits."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _position in range(SECRET_LENGTH))


def digest(key: str) -> str:
    """SHA-256 of the key, hexadecimal: all that is kept. Keys are random, so neither salt nor stretching adds anything."""
    return hashlib.sha256(key.encode()).hexdigest()


def shown(key: str) -> str:
    """The beginning by which people tell their keys apart; 36 characters stay unknown."""
    return key[:SHOWN_LENGTH]


def parse_networks(text: str | Iterable[str]) -> list[str]:
    """Addresses and networks (one a line, or separated by commas or spaces) in their usual form, without repeats.

    IPv4 written as IPv6 (`::ffff:10.0.0.5`) becomes IPv4. Raises `DomainError` with field `allowed_ips`, naming the entry.
    """
    entries = re.split(r"[\s,;]+", text) if isinstance(text, str) else list(text)
    found: list[str] = []
    for entry in filter(None, entries):
        written = _network(entry)
        if written not in found:
            found.append(written)
    if len(found) > MAX_NETWORKS:
        raise DomainError(
            _("At most %(most)d addresses and networks; these are %(count)d.")
            % {"most": MAX_NETWORKS, "count": len(found)},
            field="allowed_ips",
        )
    return found


def _network(entry: str) -> str:
    try:
        # A zone ("%eth0") names an interface of one machine; the address of a caller never has one.
        network = ipaddress.ip_network("" if "%" in entry else entry, strict=False)
    except ValueError:
        raise DomainError(
            _("“%(entry)s” is neither an address nor a network. Write 203.0.113.7 or 203.0.113.0/24.")
            % {"entry": entry[:60]},
            field="allowed_ips",
        ) from None
    if "/" in entry and str(network.network_address) != str(ipaddress.ip_interface(entry).ip):
        raise DomainError(
            _("“%(entry)s” is an address inside a network. Write %(network)s for the network, or leave out the /.")
            % {"entry": entry, "network": network},
            field="allowed_ips",
        )
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    return str(network.network_address) if network.num_addresses == 1 else str(network)
