"""Whose certificates are trusted when we call out."""

from __future__ import annotations

import ssl
from functools import cache

import certifi


@cache
def client_context() -> ssl.SSLContext:
    """Trusts what the system trusts (so a company's own CA works, SSL_CERT_FILE too) and what certifi lists.

    Shared: making one costs 20 ms. Probes and calls both use it, else a server could be up for one and not the other.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
