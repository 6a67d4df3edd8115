# SPDX-License-Identifier: GPL-2.0-or-later
"""What failed calls say."""

from __future__ import annotations

import errno

import pytest

from drakmet.errors import ExitCode, XenError
from drakmet.pyxen import XenCallError
from drakmet.pyxen.failures import hint_for


@pytest.mark.parametrize(
    ("call", "number", "words"),
    [
        ("xc_interface_open", errno.EACCES, "as root in dom0"),
        ("xc_domain_pause", errno.EPERM, "as root in dom0"),
        ("xc_interface_open", errno.ENOENT, "boot Xen"),
        ("xc_domain_getinfolist", errno.ESRCH, "xl list"),
        ("xc_altp2m_set_domain_state", errno.EINVAL, 'altp2m="external"'),
        ("xc_altp2m_set_domain_state", errno.EOPNOTSUPP, "Intel"),
        ("xc_altp2m_create_view", errno.EINVAL, "view"),
        ("xc_altp2m_change_gfn", errno.ESRCH, "not plain RAM"),
        ("xc_monitor_enable", errno.EBUSY, "Another monitor"),
        ("xc_monitor_disable", errno.EBUSY, "answer the events first"),
        ("xc_monitor_enable", errno.EOPNOTSUPP, "HVM or PVH"),
        ("xc_domain_populate_physmap_exact", errno.ENOMEM, "memory"),
        ("xc_domain_pause", errno.ENOSYS, "libraries"),
        ("xs_open", errno.ENOENT, "xenstored"),
    ],
)
def test_the_hint_says_what_to_do(call: str, number: int, words: str) -> None:
    hint = hint_for(call, number)
    assert hint is not None
    assert words in hint


def test_an_error_names_call_domain_and_errno() -> None:
    error = XenCallError("xc_domain_pause", errno.ESRCH, domain=7, detail="hypercall said so")
    assert isinstance(error, XenError)
    assert (error.call, error.domain, error.errno) == ("xc_domain_pause", 7, errno.ESRCH)
    text = str(error)
    assert text.startswith("domain 7: xc_domain_pause failed: No such process (ESRCH): hypercall said so\n")
    assert error.exit_code is ExitCode.FAILED


def test_an_unknown_number_is_told_as_it_is() -> None:
    error = XenCallError("xc_domain_pause", 9999)
    assert "9999" in str(error)
    assert error.hint is None
