# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks that no row of a drakmet file was changed, removed or added after it was written.

This file needs nothing but Python's own library, and nothing else of drakmet: copy it wherever a file has to be
checked, and run it there:

    python3 verifier.py FILE [--key PUBLIC.pem]

It reads the blocks of the table ``drakmet_chain``, each with its digest over the one before, and compares the digest of
every row with what the file now holds. Whoever can write the file can also make the whole chain anew, or cut off its
end: only a signed head (table ``drakmet_seal``, ``drakmet sign``) speaks against that, up to the block it was made at,
and only to who has the public key from elsewhere. Signatures are checked if the package ``cryptography`` is installed.

Exit codes: 0 all as it was written, 1 it was not, 2 not to be checked.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import sqlite3
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTHING = bytes(32)
"""What stands for the block before the first."""
ROW = 16
"""Bytes of a row's digest."""
_MOST_FAULTS = 1_000
# What else a schema computes is not run. SQLite 3.40 calls json_extract unsafe as well, with which ours do.
_OURS = re.compile(r"""GENERATED ALWAYS AS \(json_extract\([a-z_]+, '\$\."[A-Za-z0-9_]+"'\)\) VIRTUAL""")
_COMPUTES = re.compile(r"\b(?:AS|CHECK|DEFAULT|GENERATED|VIRTUAL)\b", re.IGNORECASE)


def link(before: bytes, seq: int, table: str, first: int, columns: str, adopted: bool, rows: bytes) -> bytes:
    """Return the digest of a block: SHA-256 over the digest before it and its parts, each behind its length."""
    parts = (before, b"%d" % seq, table.encode(), b"%d" % first, columns.encode(), b"%d" % adopted, rows)
    return hashlib.sha256(b"".join(struct.pack(">Q", len(part)) + part for part in parts)).digest()


def sealed(seq: int, digest: bytes) -> bytes:
    """Return what is signed of a chain's head."""
    return b"drakmet seal 1\0" + struct.pack(">Q", seq) + digest


def packed(row: tuple[Any, ...]) -> bytes:
    """Return a row as one MessagePack array, in the shortest form of each value."""
    out = [_head(len(row), 0x90, 15, 0, 0xDC, 0xDD)]
    for value in row:
        if value is None:
            out.append(b"\xc0")
        elif isinstance(value, int):
            out.append(_packed_int(value))
        elif isinstance(value, float):
            out.append(struct.pack(">Bd", 0xCB, value))
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogateescape")
            out += (_head(len(data), 0xA0, 31, 0xD9, 0xDA, 0xDB), data)
        else:
            out += (_head(len(value), 0, -1, 0xC4, 0xC5, 0xC6), bytes(value))
    return b"".join(out)


def _head(length: int, small: int, most: int, one: int, two: int, four: int) -> bytes:
    if length <= most:
        return bytes([small | length])
    if length < 1 << 8 and one:
        return struct.pack(">BB", one, length)
    return struct.pack(">BH", two, length) if length < 1 << 16 else struct.pack(">BI", four, length)


def _packed_int(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack(">b" if value < 0 else ">B", value)
    for mark, size in enumerate("BHIQ", 0xCC) if value >= 0 else enumerate("bhiq", 0xD0):
        try:
            return struct.pack(f">B{size}", mark, value)
        except struct.error:
            continue
    raise OverflowError(value)


@dataclass
class Verdict:
    """What was found. ``faults`` are sentences; ``sealed_up_to`` is the last block that a good signature covers."""

    blocks: int = 0
    rows: int = 0
    adopted: int = 0
    head: bytes = NOTHING
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sealed_up_to: int | None = None

    def fault(self, text: str) -> None:
        """Note that something is not as it was written; of more than a thousand only the first ones are kept."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(text)


class _Table:
    """The digests that a table's rows should have, by id."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.runs: list[tuple[int, bytearray, str]] = []
        self.again: dict[int, tuple[bytes, str]] = {}
        """Rows that were written again, or were chained before their neighbours."""

    def add(self, first: int, rows: bytes, columns: str) -> None:
        end = self.runs[-1][0] + len(self.runs[-1][1]) // ROW if self.runs else first
        if self.runs and first == end and columns == self.runs[-1][2]:
            self.runs[-1][1].extend(rows)
        elif not self.runs or first >= end:
            self.firsts.append(first)
            self.runs.append((first, bytearray(rows), columns))
        else:
            for place in range(0, len(rows), ROW):
                self.again[first + place // ROW] = (rows[place : place + ROW], columns)

    def knows(self, number: int) -> bool:
        place = bisect.bisect_right(self.firsts, number) - 1
        inside = place >= 0 and number < self.runs[place][0] + len(self.runs[place][1]) // ROW
        return inside or number in self.again


def verify(path: str | Path, key: bytes | None = None) -> Verdict:
    """Check a file; ``key`` is an Ed25519 public key of 32 bytes that a seal has to be signed with.

    Raises `ValueError` for a file without a chain, `sqlite3.Error` for what SQLite cannot read.
    """
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        return _check(connection, key)
    except (TypeError, struct.error, OverflowError) as error:
        raise ValueError(f"its chain is malformed: {error}") from error
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, key: bytes | None) -> Verdict:
    connection.execute("BEGIN")
    names = dict(connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'table'"))
    if any(_COMPUTES.search(_OURS.sub("", sql)) for sql in names.values()):
        connection.execute("PRAGMA trusted_schema = OFF")
    if not {"drakmet_chain", "drakmet_seal"} <= names.keys():
        raise ValueError("it has no chain: it is not a drakmet file, or one of before there were chains")
    verdict = Verdict()
    tables, digests = _blocks(connection, verdict)
    for name in names:
        if not name.startswith(("sqlite_", "_sqlite_", "drakmet_", "_drakmet_")):
            tables.setdefault(name, _Table())
    for name, table in sorted(tables.items()):
        if name in names:
            _compare(connection, name, table, verdict)
        else:
            verdict.fault(f"the table {name} is gone")
    _seals(connection, digests, key, verdict)
    return verdict


def _blocks(connection: sqlite3.Connection, verdict: Verdict) -> tuple[dict[str, _Table], dict[int, bytes]]:
    tables: dict[str, _Table] = {}
    told: dict[str, str] = {}
    wanted = {seq for (seq,) in connection.execute("SELECT seq FROM drakmet_seal")}
    digest, expected, digests = NOTHING, 1, {0: NOTHING}
    sql = "SELECT seq, table_name, first, columns, adopted, rows, digest FROM drakmet_chain ORDER BY seq"
    for seq, name, first, columns, adopted, rows, kept in connection.execute(sql):
        told[name] = columns = columns or told.get(name, "")
        verdict.blocks += 1
        if seq != expected:
            verdict.fault(f"blocks {expected} to {seq - 1} of the chain are gone")
        digest = link(digest, seq, name, first, columns, bool(adopted), rows)
        if digest != kept:
            verdict.fault(f"block {seq} of the chain is not what it was: rows of {name} from {first} on")
            digest = kept
        if adopted:
            verdict.adopted += len(rows) // ROW
        tables.setdefault(name, _Table()).add(first, rows, columns)
        if seq in wanted:
            digests[seq] = digest
        expected = seq + 1
    verdict.head = digest
    return tables, digests


def _compare(connection: sqlite3.Connection, name: str, table: _Table, verdict: Verdict) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    for (number,) in connection.execute(f"SELECT id FROM {quoted} ORDER BY id"):  # noqa: S608 - quoted
        verdict.rows += 1
        if not table.knows(number):
            verdict.fault(f"row {number} of {name} was added")
    for first, digests, columns in table.runs:
        following, end = first, first + len(digests) // ROW
        for row in _rows(connection, name, quoted, columns, (first, end - 1), verdict):
            for gone in range(following, min(row[0], following + _MOST_FAULTS)):
                verdict.fault(f"row {gone} of {name} was removed")
            following = row[0] + 1
            place = (row[0] - first) * ROW
            if row[0] not in table.again and _digest(row) != digests[place : place + ROW]:
                verdict.fault(f"row {row[0]} of {name} was changed")
        for gone in range(following, min(end, following + _MOST_FAULTS)):
            verdict.fault(f"row {gone} of {name} was removed")
    for number, (digest, columns) in table.again.items():
        rows = _rows(connection, name, quoted, columns, (number, number), verdict)
        for row in rows:
            if _digest(row) != digest:
                verdict.fault(f"row {number} of {name} was changed")
        if not rows and not any(first <= number < first + len(held) // ROW for first, held, _ in table.runs):
            verdict.fault(f"row {number} of {name} was removed")


def _rows(
    connection: sqlite3.Connection, name: str, quoted: str, columns: str, span: tuple[int, int], verdict: Verdict
) -> list[Any] | sqlite3.Cursor:
    names = ", ".join('"' + column.replace('"', '""') + '"' for column in columns.split("\n"))
    there = {column for (column,) in connection.execute("SELECT name FROM pragma_table_xinfo(?)", (name,))}
    if missing := [column for column in columns.split("\n") if column not in there]:
        verdict.fault(f"the table {name} has lost the column {missing[0]}")
        return []
    sql = f"SELECT {names} FROM {quoted} WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608 - quoted
    cursor = connection.execute(sql, span)
    return cursor if span[0] != span[1] else cursor.fetchall()


def _digest(row: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b(packed(row), digest_size=ROW).digest()


def _seals(connection: sqlite3.Connection, digests: dict[int, bytes], key: bytes | None, verdict: Verdict) -> None:
    for seq, digest, signer, signature in connection.execute("SELECT seq, digest, key, signature FROM drakmet_seal"):
        if digests.get(seq) != digest:
            verdict.fault(f"the chain was cut off or made anew: it is not the one that was sealed at block {seq}")
        elif signature is None or (key is not None and signer != key):
            continue
        elif (good := _signed(signer, signature, sealed(seq, digest))) is None:
            verdict.notes.append("signatures were not checked: the package cryptography is not installed")
        elif not good:
            verdict.fault(f"the signature of the seal at block {seq} is wrong")
        elif key is not None:
            verdict.sealed_up_to = max(seq, verdict.sealed_up_to or 0)
        else:
            verdict.notes.append(f"block {seq} is signed by {signer.hex()}; give its key to say whether you trust that")
    if key and verdict.sealed_up_to is None:
        verdict.fault("no seal is signed with the key that was given")
    if (covered := verdict.sealed_up_to or 0) < verdict.blocks:
        verdict.notes.append(f"blocks {covered + 1} to {verdict.blocks} are under no signature that was asked for")


def _signed(key: bytes, signature: bytes, message: bytes) -> bool | None:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return None
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def read_key(path: str | Path) -> bytes:
    """Return the 32 bytes of an Ed25519 public key in PEM; raise `ValueError` if it is none."""
    import base64

    lines = Path(path).read_text("ascii", "replace").splitlines()
    data = base64.b64decode("".join(line for line in lines if not line.startswith("-----")), validate=True)
    # RFC 8410: the SubjectPublicKeyInfo of an Ed25519 key is this and the key.
    if len(data) != 44 or not data.startswith(bytes.fromhex("302a300506032b6570032100")):
        raise ValueError(f"{path} is no Ed25519 public key in PEM")
    return data[12:]


def main(arguments: list[str]) -> int:
    """Check a file as the command line says."""
    key = arguments[2] if len(arguments) == 3 and arguments[1] == "--key" else None
    if not arguments or (len(arguments) > 1 and key is None) or arguments[0].startswith("-"):
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    try:
        verdict = verify(arguments[0], read_key(key) if key else None)
    except (ValueError, OSError, sqlite3.Error) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    for fault in verdict.faults:
        print(ascii(fault)[1:-1])
    print(*verdict.notes, sep="\n", end="\n" if verdict.notes else "", file=sys.stderr)
    print(f"{verdict.rows} rows, {verdict.blocks} blocks, head {verdict.head.hex()}: ", end="")
    print("NOT as they were written" if verdict.faults else "as they were written")
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
