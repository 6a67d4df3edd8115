# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest view reads from: guest-physical memory, and nothing else."""

from __future__ import annotations

from typing import Protocol

from drakmet.errors import GuestError

PAGE_SIZE = 4096
PAGE_SHIFT = 12


class Unreadable(GuestError):
    """Memory that is not there: no frame behind the address, or no translation to one."""


class PhysicalMemory(Protocol):
    """Guest-physical memory of a live guest, an image or a recording; addresses and lengths are in bytes."""

    @property
    def size(self) -> int:
        """One past the highest guest-physical address that may be readable."""

    def read(self, gpa: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``gpa``; raise `Unreadable` if any of them is missing."""

    def read_u64(self, gpa: int) -> int:
        """Return the little-endian 64-bit word at ``gpa``; raise `Unreadable` if it is missing."""
