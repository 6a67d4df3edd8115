# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel says of itself: names, time since boot, CPUs, taint, command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.layout import Slice
from drakmet.guest.pathtypes import bounded, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.kernel import Kernel

_MAX_COMMAND: Final = 4096
_SECOND: Final = 1_000_000_000
_MAX_SHIFT: Final = 32
_KTIME_MAX: Final = 1 << 63
_TIMEKEEPER: Final = 8
"""tk_core is a sequence count, then the timekeeper (kernel/time/timekeeping.c, 5.10 to 6.12)."""


class Status(msgspec.Struct, frozen=True):
    """Times in nanoseconds: ``uptime`` since boot and ``clock`` since 1970, both at the kernel's last tick."""

    hostname: str | None = None
    release: str | None = None
    version: str | None = None
    command_line: str | None = None
    uptime: int | None = None
    clock: int | None = None
    cpus: int | None = None
    taint: int | None = None
    missing: dict[str, str] = {}


def read(kernel: Kernel) -> Status:
    """Return what the kernel says of itself; what could not be read is None, with its reason in ``missing``."""
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}

    def take(names: tuple[str, ...], reader: Callable[[Kernel], tuple[Any, ...]]) -> None:
        try:
            values.update(zip(names, reader(kernel), strict=True))
        except GuestError as error:
            missing.update(dict.fromkeys(names, error.what))

    take(("hostname", "release", "version"), _names)
    take(("command_line",), _command_line)
    take(("uptime", "clock"), _times)
    take(("cpus",), lambda kernel: (kernel.space.read_uint(kernel.address("__num_online_cpus"), 4),))
    take(("taint",), lambda kernel: (kernel.space.read_u64(kernel.address("tainted_mask")),))
    return Status(**values, missing=missing)


def _names(kernel: Kernel) -> tuple[Any, ...]:
    names = Slice(kernel.profile.types, "uts_namespace", "name.nodename", "name.release", "name.version")
    return tuple(text(name.partition(b"\0")[0]) for name in names.read(kernel.space, kernel.address("init_uts_ns")))


def _command_line(kernel: Kernel) -> tuple[str]:
    at = kernel.space.read_u64(kernel.address("saved_command_line"))
    return (bounded(kernel.space.read_cstring(at, _MAX_COMMAND), _MAX_COMMAND),)


def _times(kernel: Kernel) -> tuple[int, int]:
    # Every page of it is aligned: the members lie behind the count, which takes 4 bytes and as many to fill up.
    members = Slice(
        kernel.profile.types, "timekeeper", "tkr_mono.shift", "tkr_mono.xtime_nsec", "tkr_mono.base", "xtime_sec",
        "offs_boot",
    )  # fmt: skip
    shift, nanoseconds, base, seconds, boot = members.read(kernel.space, kernel.address("tk_core") + _TIMEKEEPER)
    if (
        shift > _MAX_SHIFT
        or not 0 <= base < _KTIME_MAX
        or not 0 <= boot < _KTIME_MAX
        or seconds > _KTIME_MAX // _SECOND
    ):
        raise GuestError("the kernel's clock makes no sense")
    since = nanoseconds >> shift
    return base + since + boot, seconds * _SECOND + since
