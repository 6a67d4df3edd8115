# SPDX-License-Identifier: GPL-2.0-or-later
"""The hash by which a page of code is known: the same in what is executed, what is scanned, and in files."""

from __future__ import annotations

import hashlib


def page_hash(page: bytes) -> bytes:
    """Return the 16-byte hash (BLAKE2b) that a page of 4096 bytes is looked up by."""
    return hashlib.blake2b(page, digest_size=16, person=b"drakmet page").digest()
