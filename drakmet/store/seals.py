# SPDX-License-Identifier: GPL-2.0-or-later
"""Signs the head of a file's chain with Ed25519, and makes keys for it; needs the extra ``evidence``."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.errors import StoreError, UsageError
from drakmet.store import faults
from drakmet.store.verifier import sealed
from drakmet.store.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Seal:
    """A signed head: write it down elsewhere, and the file cannot be cut short unseen even by who has the key."""

    block: int
    digest: bytes
    key: bytes
    signature: bytes


def make_key(path: Path) -> Path:
    """Write a new private key to ``path``, for its owner only, and the public one beside it; return that one's path.

    Raises `UsageError` if one of the files is there already.
    """
    keys = _library()
    from cryptography.hazmat.primitives import serialization as form

    key = keys.generate()
    public = path.with_name(path.name + ".pub")
    private_pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public_pem = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    for file, data, mode in ((path, private_pem, 0o600), (public, public_pem, 0o644)):
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise UsageError(f"the key cannot be written: {error.strerror}", where=str(file)) from error
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
    return public


def sign(path: Path, key_file: Path) -> Seal:
    """Sign the head of a file's chain as it is now, and keep the signature in the file.

    Raises `UsageError` for a key that is none, `StoreError` if the file cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as form

    key = _read_key(key_file)
    if not path.is_file():
        raise StoreError("there is no such file", where=str(path), hint="give a file that drakmet wrote")
    public = key.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    try:
        with Writer(path) as writer:
            block, digest = writer.head
            seal = Seal(block, digest, public, key.sign(sealed(block, digest)))
            writer.seal(time.time_ns(), None, seal.key, seal.signature)
    except sqlite3.Error as error:
        raise faults.explain(error, path) from error
    return seal


def _read_key(path: Path) -> Ed25519PrivateKey:
    keys = _library()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"it is no private key without a password: {error}",
            where=str(path),
            hint="make one with `drakmet sign --new-key FILE`",
        ) from error
    if not isinstance(key, keys):
        raise UsageError("it is no Ed25519 key", where=str(path), hint="make one with `drakmet sign --new-key FILE`")
    return key


def _library() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise UsageError("signing needs the package cryptography", hint="pip install 'drakmet[evidence]'") from error
    return Ed25519PrivateKey
