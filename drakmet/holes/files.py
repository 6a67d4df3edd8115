# SPDX-License-Identifier: GPL-2.0-or-later
"""Advisory files as they are handed in: what they are is told by what is in them, and how much is read is bounded."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import UsageError
from drakmet.holes import debsecan
from drakmet.holes.book import Account
from drakmet.holes.osv import Osv
from drakmet.holes.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from drakmet.holes.book import Wanted
    from drakmet.holes.opinion import Advisories

MOST_BYTES: Final = 1 << 30
"""Of one file, unpacked."""
_MOST_REPORT: Final = 1 << 25
_MOST_REPORTS: Final = 1_000_000
_BROKEN: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def load(paths: Iterable[Path], wanted: Wanted) -> Iterator[tuple[Account, Advisories]]:
    """Yield what each path holds about the wanted packages; `UsageError` for one of which nothing can be used.

    Debian's security tracker JSON, OSV (a report, a list of reports, a directory or a ZIP archive of them), debsecan's
    data or a report of its; packed with gzip or xz as well.
    """
    for path in paths:
        account = Account(path.name or str(path))
        try:
            advisories = _directory(path, wanted, account) if path.is_dir() else _file(path, wanted, account)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
        except UsageError as error:
            raise UsageError(error.what, where=str(path), hint=error.hint) from error
        yield account, advisories


def _directory(path: Path, wanted: Wanted, account: Account) -> Osv:
    reports = Osv(wanted, account)
    digest = hashlib.sha256()
    files = sorted(one for one in path.rglob("*.json") if one.is_file() and not one.is_symlink())
    if not files:
        raise UsageError("there is no .json in the directory", hint="give a directory of OSV reports")
    newest = 0
    for one in files[:_MOST_REPORTS]:
        if one.stat().st_size > _MOST_REPORT:
            account.refuse(f"a report of more than {_MOST_REPORT >> 20} MiB")
            continue
        data = one.read_bytes()
        digest.update(hashlib.sha256(data).digest())
        newest = max(newest, one.stat().st_mtime_ns)
        reports.add(data)
    if len(files) > _MOST_REPORTS:
        account.refuse("reports beyond the first million")
    account.digest = digest.hexdigest()
    account.date = account.date or newest
    return reports


def _file(path: Path, wanted: Wanted, account: Account) -> Advisories:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UsageError(f"it has more than {MOST_BYTES >> 30} GiB")
    account.digest = hashlib.sha256(data).hexdigest()
    if data[:4] == b"PK\x03\x04":
        reports = Osv(wanted, account)
        _archive(data, reports, account)
        advisories: Advisories = reports
    else:
        advisories = _plain(_unpacked(data), wanted, account)
    if account.date is None:
        account.date = path.stat().st_mtime_ns
    return advisories


def _archive(data: bytes, reports: Osv, account: Account) -> None:
    left = 4 * MOST_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [one for one in archive.infolist() if one.filename.endswith(".json")]
            for member in members[:_MOST_REPORTS]:
                if member.file_size > min(_MOST_REPORT, left):
                    account.refuse(f"a report of more than {_MOST_REPORT >> 20} MiB, or too many in all")
                    continue
                try:
                    with archive.open(member) as file:
                        body = file.read(_MOST_REPORT)  # what the archive says of sizes may be wrong
                except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError):
                    account.refuse("a member that cannot be unpacked")
                    continue
                left -= len(body)
                reports.add(body)
    except (zipfile.BadZipFile, ValueError) as error:
        raise UsageError(f"the archive cannot be read: {error}") from error
    if not members:
        raise UsageError("there is no .json in the archive", hint="give an archive of OSV reports")


def _unpacked(data: bytes) -> bytes:
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MOST_BYTES + 1)
        elif data[:6] == b"\xfd7zXZ\0":
            with lzma.LZMAFile(io.BytesIO(data)) as packed:
                data = packed.read(MOST_BYTES + 1)
        elif data[:1] == b"\x78" and (data[0] << 8 | data[1] if len(data) > 1 else 1) % 31 == 0:
            unpack = zlib.decompressobj()
            data = unpack.decompress(data, MOST_BYTES + 1)
            if not unpack.eof and len(data) <= MOST_BYTES:
                raise UsageError("it is cut off")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UsageError(f"it cannot be unpacked: {error}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"it has more than {MOST_BYTES >> 30} GiB unpacked")
    return data


def _plain(data: bytes, wanted: Wanted, account: Account) -> Advisories:
    start = data[:64].lstrip()
    if start[:1] == b"[":
        return _list(data, wanted, account)
    if start[:1] == b"{":
        reports = _report(data, wanted, account)
        return Tracker(data, wanted, account) if reports is None else reports
    text = data.decode("utf-8", "replace")
    if text.startswith(debsecan.HEADING):
        return debsecan.Data(text, wanted, account)
    if any(debsecan.LINE.fullmatch(line.rstrip()) for line in text[: 1 << 16].split("\n")):
        return debsecan.Report(text, wanted, account)
    raise UsageError(
        "it is no advisory file that drakmet knows",
        hint="give Debian's security tracker JSON, OSV reports, or debsecan's data or report",
    )


def _report(data: bytes, wanted: Wanted, account: Account) -> Osv | None:
    """Return a single OSV report, None if it is none."""

    class Probe(msgspec.Struct):
        id: str
        modified: str

    with contextlib.suppress(*_BROKEN):
        msgspec.json.decode(data, type=Probe)
        reports = Osv(wanted, account)
        reports.add(data)
        return reports
    return None


def _list(data: bytes, wanted: Wanted, account: Account) -> Osv:
    try:
        bodies = msgspec.json.decode(data, type=list[msgspec.Raw])
    except _BROKEN as error:
        raise UsageError(f"the JSON is broken: {error}") from error
    reports = Osv(wanted, account)
    for body in bodies[:_MOST_REPORTS]:
        reports.add(body)
    if len(bodies) > _MOST_REPORTS:
        account.refuse("reports beyond the first million")
    return reports
