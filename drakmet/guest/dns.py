# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions of DNS messages (RFC 1035, 4.1), out of bytes that a guest chose: every length and jump is bounded."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

_HEADER: Final = struct.Struct(">HHHHHH")
_MAX_QUESTIONS: Final = 16
_MAX_NAME: Final = 255
_MAX_JUMPS: Final = 32
_QR: Final = 1 << 15
_POINTER: Final = 0xC0
_TYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
    35: "NAPTR", 43: "DS", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA",
}  # fmt: skip


class DnsError(ValueError):
    """Bytes that are no DNS message."""


class Question(msgspec.Struct, frozen=True):
    """One question: the name in presentation form (RFC 4343: no final dot, odd bytes as ``\\DDD``), and its type."""

    name: str
    type: str


class Message(msgspec.Struct, frozen=True):
    """What a DNS message asks. ``response`` tells an answer, which repeats the question."""

    id: int
    response: bool
    opcode: int
    questions: tuple[Question, ...]


def parse(data: bytes, *, tcp: bool = False) -> Message:
    """Return the questions of a message; ``tcp``: a two-byte length comes first. `DnsError` if it is none."""
    if tcp:
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    if len(data) < _HEADER.size:
        raise DnsError(f"{len(data)} bytes are too few for a DNS header")
    number, flags, count, *_ = _HEADER.unpack_from(data)
    if not 0 < count <= _MAX_QUESTIONS:
        raise DnsError(f"{count} questions")
    questions = []
    at = _HEADER.size
    for _ in range(count):
        name, at = _name(data, at)
        if at + 4 > len(data):
            raise DnsError("a question is cut short")
        kind, klass = struct.unpack_from(">HH", data, at)
        at += 4
        if klass & 0x7FFF not in (1, 3, 4, 255):  # multicast DNS uses the top bit
            raise DnsError(f"class {klass}")
        questions.append(Question(name, _TYPES.get(kind, f"TYPE{kind}")))
    return Message(number, bool(flags & _QR), flags >> 11 & 15, tuple(questions))


def _name(data: bytes, at: int) -> tuple[str, int]:
    """Return the name at ``at`` and where what follows it starts."""
    labels: list[str] = []
    size, jumps, after = 0, 0, -1
    while True:
        if at >= len(data):
            raise DnsError("a name is cut short")
        length = data[at]
        if length & _POINTER == _POINTER:
            if at + 2 > len(data):
                raise DnsError("a name is cut short")
            target = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
            jumps += 1
            # A pointer may only go back, so that no chain of them can be endless.
            if not _HEADER.size <= target < at or jumps > _MAX_JUMPS:
                raise DnsError("a name points nowhere, forward or round in a circle")
            if after < 0:
                after = at + 2
            at = target
            continue
        if length & _POINTER:
            raise DnsError(f"a label of the unknown kind {length >> 6}")
        at += 1
        if length == 0:
            break
        size += length + 1
        if at + length > len(data) or size > _MAX_NAME:
            raise DnsError("a name is cut short or too long")
        labels.append("".join(_shown(byte) for byte in data[at : at + length]))
        at += length
    return ".".join(labels) or ".", after if after >= 0 else at


def _shown(byte: int) -> str:
    if byte in b'."\\;()@$':
        return f"\\{byte:c}"
    return chr(byte) if 0x21 <= byte <= 0x7E else f"\\{byte:03d}"
