# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS questions, as they are sent and as a hostile guest would."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.guest import dns

LABELS = st.lists(st.binary(min_size=1, max_size=63), min_size=0, max_size=3)


def message(*questions: tuple[list[bytes], int], flags: int = 0x100) -> bytes:
    body = b"".join(
        b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack(">HH", kind, 1)
        for labels, kind in questions
    )
    return struct.pack(">HHHHHH", 0x1234, flags, len(questions), 0, 0, 0) + body


def test_a_query_is_read() -> None:
    found = dns.parse(message(([b"www", b"Example", b"org"], 28)))
    assert found == dns.Message(0x1234, False, 0, (dns.Question("www.Example.org", "AAAA"),))


def test_an_answer_is_told_from_a_query() -> None:
    found = dns.parse(message(([], 2), flags=0x8180))
    assert found.response
    assert found.questions == (dns.Question(".", "NS"),)


def test_over_tcp_a_length_comes_first() -> None:
    raw = message(([b"a"], 65280))
    assert dns.parse(len(raw).to_bytes(2, "big") + raw + b"more", tcp=True).questions[0].type == "TYPE65280"


def test_odd_bytes_are_escaped_so_that_names_stay_different() -> None:
    found = dns.parse(message(([b"a.b", b"\0\xff \\"], 16)))
    assert found.questions[0].name == "a\\.b.\\000\\255\\032\\\\"


def test_a_name_may_point_back_to_another() -> None:
    raw = message(([b"host", b"org"], 1), ([b"x"], 1))
    raw = raw[:-7] + b"\xc0\x11" + raw[-4:]  # the second name is now a pointer to "org"
    assert [one.name for one in dns.parse(raw).questions][-1] == "org"


@pytest.mark.parametrize(
    "name",
    [b"\xc0\x0c", b"\xc0\x0e\xc0\x0c", b"\x03ab", b"\x40a", b"\x80", b"\xc0", b"\x3f" + b"a" * 62, b"\xff\xff"],
)
def test_names_that_run_wild_are_refused(name: bytes) -> None:
    with pytest.raises(dns.DnsError):
        dns.parse(struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + name + b"\0\0\1\0\1")


def test_a_name_of_more_than_255_bytes_is_refused() -> None:
    with pytest.raises(dns.DnsError):
        dns.parse(message(([b"a" * 63] * 5, 1)))


@given(LABELS, st.integers(0, 65535))
def test_every_name_comes_back(labels: list[bytes], kind: int) -> None:
    (question,) = dns.parse(message((labels, kind))).questions
    raw = b"" if question.name == "." else question.name.encode()
    parts: list[bytearray] = [bytearray()] if labels else []
    at = 0
    while at < len(raw):
        if raw[at : at + 1] == b"\\" and raw[at + 1 : at + 2].isdigit():
            parts[-1].append(int(raw[at + 1 : at + 4]))
            at += 4
        elif raw[at : at + 1] == b"\\":
            parts[-1].append(raw[at + 1])
            at += 2
        elif raw[at : at + 1] == b".":
            parts.append(bytearray())
            at += 1
        else:
            parts[-1].append(raw[at])
            at += 1
    assert parts == labels


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_a_message_or_an_error(raw: bytes, tcp: bool) -> None:  # hypothesis gives it
    try:
        found = dns.parse(raw, tcp=tcp)
    except dns.DnsError:
        return
    assert 0 < len(found.questions) <= 16
    assert all(len(one.name) <= 4 * 255 for one in found.questions)
