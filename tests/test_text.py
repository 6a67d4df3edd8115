# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest text: reversible, printable, unambiguous."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import UsageError
from drakmet.text import CUT, Cut, escape, escape_bytes, is_cut, unescape


@given(st.binary())
def test_every_string_of_a_guest_survives_and_prints(data: bytes) -> None:
    text = escape_bytes(data)
    assert unescape(text) == data
    assert text.isprintable()
    text.encode("utf-8")


@given(st.text(alphabet="\\x41é\x1b", max_size=12))
def test_what_unescape_takes_is_guest_text(text: str) -> None:
    try:
        data = unescape(text)
    except UsageError:
        return
    assert unescape(escape_bytes(data)) == data


@given(st.binary() | st.text(alphabet="\\…x", max_size=6).map(str.encode))
def test_a_cut_text_says_so_and_no_other_does(data: bytes) -> None:
    plain = data.decode("utf-8", "surrogateescape")
    assert not is_cut(escape(plain))
    cut = escape(Cut(plain))
    assert is_cut(cut)
    assert cut.endswith(CUT)
    assert cut.isprintable()
    assert unescape(cut) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"/usr/bin/sh", "/usr/bin/sh"),
        (b"a\\b", r"a\\b"),
        (b"\\x41", r"\\x41"),
        (b"\x1b[2J", r"\x1b[2J"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}".encode(), r"\xe2\x80\xae"),
        ("naïve".encode(), "naïve"),
    ],
)
def test_the_form(data: bytes, text: str) -> None:
    assert escape_bytes(data) == text


def test_escape_takes_surrogates() -> None:
    assert escape(b"\x80/bin".decode("utf-8", "surrogateescape")) == r"\x80/bin"


@pytest.mark.parametrize("text", ["\\", r"\x4", r"\xZZ", r"\x4\\1", r"a\n"])
def test_what_is_no_guest_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not guest text"):
        unescape(text)
