"""Prometheus' remote write 1.0, written by hand: packages for four kinds of fields would be out of proportion."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


def request(series: Iterable[bytes]) -> bytes:
    """The body of a `WriteRequest` with these `TimeSeries`, each `labels()` and samples."""
    return _snappy(b"".join(field(1, one) for one in series))


def series(selector: str, points: Iterable[tuple[float, float]]) -> bytes:
    """A `TimeSeries`: `name{label="value"}`, [(epoch seconds, figure), …]."""
    name, _, inside = selector.partition("{")
    told = {"__name__": name}
    for pair in filter(None, inside.rstrip("}").split('",')):
        label, value = pair.split("=", 1)
        told[label.strip()] = value.strip().strip('"')
    samples = (b"\x09" + struct.pack("<d", figure) + b"\x10" + varint(round(at * 1000)) for at, figure in points)
    return labels(told) + b"".join(field(2, sample) for sample in samples)


def labels(told: Mapping[str, str]) -> bytes:
    """The label pairs of a `TimeSeries`, in the order that is asked for."""
    return b"".join(
        field(1, field(1, label.encode()) + field(2, value.encode())) for label, value in sorted(told.items())
    )


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _snappy(content: bytes) -> bytes:
    """Snappy's block format without compressing anything: literals only."""
    pieces = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    return varint(len(content)) + b"".join(b"\xf4" + struct.pack("<H", len(piece) - 1) + piece for piece in pieces)
