#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Ansible module: look at a host, scan its guests with a bundle that is checked first, tidy up. Runs on the host."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENTATION = """
module: drakmet_host
short_description: Look at a Xen host, scan its guests, tidy up
"""

_OLDEST = (3, 11)
_TOLD = 2000
_ROOM = 64 << 20
_BUNDLE = re.compile(r"bundle-[0-9a-f]{64}")


class HostError(Exception):
    """Why this host cannot be scanned: a word for the row, and a sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def look(parameters: dict[str, Any]) -> dict[str, Any]:
    """Say what the host is, and make the folder that only its owner can enter."""
    folder = Path(parameters["dir"])
    found: dict[str, Any] = {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "machine": platform.machine(),
        "name": platform.node(),
        "xen": _xen(),
    }
    if sys.version_info[:2] < _OLDEST:
        raise HostError("old python", f"its Python is {found['python']}; 3.11 or later is needed")
    if parameters["need_xen"] and not _is_dom0():
        raise HostError("no xen", "it is no dom0: /proc/xen/capabilities does not say control_d")
    if not parameters["peek"]:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        if about.st_uid != os.geteuid():
            raise HostError("no access", f"{folder} belongs to another user: uid {about.st_uid}")
        if folder.is_symlink() or about.st_mode & 0o022:
            raise HostError("unsafe folder", f"{folder} is a link, or others may write to it")
    exists = folder.is_dir()
    found["free"] = shutil.disk_usage(folder).free if exists else None
    found["bundles"] = sorted(p.name for p in folder.iterdir() if _BUNDLE.fullmatch(p.name)) if exists else []
    if not parameters["peek"] and found["free"] < _ROOM:
        raise HostError("full", f"{found['free'] >> 20} MiB are free in {folder}; {_ROOM >> 20} are needed")
    return found


def scan(parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the bundle, run it over the guests until the deadline, and pack the result: one scan a host at a time."""
    folder = Path(parameters["dir"])
    with _alone(folder, parameters["deadline"]):
        return _scan(folder, parameters)


def _scan(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    bundle = folder / f"bundle-{parameters['bundle']}"
    if bundle.exists():
        check(bundle, parameters["bundle"])
    else:
        unpack(folder / f"{bundle.name}.tar.gz", bundle, parameters["bundle"])
    result = folder / f"{parameters['result']}.db"
    for name in (result.name, f"{result.name}-wal", f"{result.name}-shm", f"{result.name}.gz"):
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-I", "-S", "-B", str(bundle / "run.py"), "scan", *(parameters["targets"] or ["--all"])]
    command += ["--no-rules", "--json", "--db", str(result)]
    command += ["--live"] if parameters["live"] else []
    for plugins in sorted((bundle / "plugins").glob("*")):
        command += ["--plugins-dir", str(plugins)]
    if (bundle / "identity.db").exists():
        command += ["--identity", str(bundle / "identity.db")]
    begun = time.monotonic()
    code, out, err = _run(command, folder, parameters["deadline"], parameters["most"])
    summary = _summary(out)
    if summary is None:
        said = err.decode("utf-8", "replace").strip()[-_TOLD:]
        kind = "full" if re.search("no space|disk is full|too large", said, re.IGNORECASE) else "failed"
        raise HostError(kind, f"the scan ended with {code}: {said or 'it said nothing'}")
    packed = _pack(result)
    return {
        "code": code,
        "seconds": round(time.monotonic() - begun, 1),
        "guests": summary.get("guests"),
        "failed_guests": summary.get("failed"),
        "result_path": str(packed),
        "size": packed.stat().st_size,
        "sha256": _sha256(packed),
    }


def clean(parameters: dict[str, Any]) -> dict[str, Any]:
    """Remove the result, and all bundles if they are not to be kept; else those that are not this one."""
    folder = Path(parameters["dir"])
    removed = []
    for path in sorted(folder.glob("*")) if folder.is_dir() and not folder.is_symlink() else []:
        is_bundle = _BUNDLE.match(path.name) is not None
        wanted = parameters["keep"] and path.name == f"bundle-{parameters['bundle']}"
        if (is_bundle and not wanted) or path.name.startswith(f"{parameters['result']}.db"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(path.name)
    if not parameters["keep"]:
        # What drakmet keeps of the guests' kernels, to be quicker the next time.
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        (folder / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return {"removed": removed}


def unpack(archive: Path, bundle: Path, wanted: str) -> None:
    """Unpack an archive into a folder that appears whole or not at all."""
    work = bundle.with_name(f".{bundle.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for member in packed:
                parts = Path(member.name).parts
                if not member.isfile() or member.name.startswith("/") or ".." in parts:
                    raise HostError("broken bundle", f"{archive} holds {member.name!r}")
                place = work / member.name
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                source = packed.extractfile(member)
                assert source is not None  # noqa: S101 - a file
                with place.open("wb") as out:
                    shutil.copyfileobj(source, out)
        check(work, wanted)
        work.rename(bundle)
        archive.unlink()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise HostError("broken bundle", f"{archive} came broken: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check(bundle: Path, wanted: str) -> None:
    """Compare each file with the manifest, and the manifest with the hash that the controller gave."""
    fault = _fault(bundle, wanted)
    if fault:
        # The next attempt brings it again.
        shutil.rmtree(bundle, ignore_errors=True)
        raise HostError("broken bundle", f"{bundle}: {fault}")


def _fault(bundle: Path, wanted: str) -> str | None:
    manifest = (bundle / "MANIFEST").read_bytes() if (bundle / "MANIFEST").is_file() else b""
    if hashlib.sha256(manifest).hexdigest() != wanted:
        return "its manifest is not the one that was sent"
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in manifest.decode().splitlines())}
    there = {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_symlink() or not p.is_dir()}
    for name in sorted(there ^ {*listed, "MANIFEST"}):
        return f"{name} is {'not in its manifest' if name in there else 'gone'}"
    for name, digest in listed.items():
        if (bundle / name).is_symlink() or _sha256(bundle / name) != digest:
            return f"{name} was changed"
    return None


@contextlib.contextmanager
def _alone(folder: Path, seconds: float) -> Iterator[None]:
    """Wait for a scan that was left behind, such as by a connection that broke: it would write to the same files."""
    until = time.monotonic() + seconds
    with (folder / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise HostError("slow", f"another scan of this host did not end in {seconds:g} s") from None
                time.sleep(0.5)
            else:
                break
        yield


def _run(command: list[str], folder: Path, deadline: float, most: int) -> tuple[int, bytes, bytes]:
    def bound() -> None:
        os.nice(5)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    paths = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": paths, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)},
        start_new_session=True,
        preexec_fn=bound,  # noqa: PLW1509 - this process has one thread
    ) as process:
        try:
            out, err = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise HostError("slow", f"the scan took longer than {deadline:g} s and was ended") from None
    return process.returncode, out, err


def _summary(out: bytes) -> dict[str, Any] | None:
    lines = out.splitlines()
    try:
        row = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.get("table") == "summary" else None


def _pack(result: Path) -> Path:
    packed = result.with_name(f"{result.name}.gz")
    with result.open("rb") as source, gzip.open(packed, "wb", compresslevel=3) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    result.unlink()
    return packed


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_dom0() -> bool:
    with contextlib.suppress(OSError):
        return "control_d" in Path("/proc/xen/capabilities").read_text()
    return False


def _xen() -> str | None:
    parts = []
    for name in ("major", "minor", "extra"):
        with contextlib.suppress(OSError):
            parts.append(Path(f"/sys/hypervisor/version/{name}").read_text().strip())
    return f"{parts[0]}.{parts[1]}{''.join(parts[2:])}" if len(parts) > 1 else None


def main() -> None:
    """Do as Ansible asks."""
    module = AnsibleModule(
        argument_spec={
            "action": {"choices": ["look", "scan", "clean"], "required": True},
            "dir": {"type": "path", "required": True},
            "peek": {"type": "bool", "default": False},
            "need_xen": {"type": "bool", "default": True},
            "bundle": {"type": "str", "default": ""},
            "result": {"type": "str", "default": "result"},
            "targets": {"type": "list", "elements": "str", "default": []},
            "live": {"type": "bool", "default": False},
            "keep": {"type": "bool", "default": True},
            "deadline": {"type": "float", "default": 600.0},
            "most": {"type": "int", "default": 1 << 30},
        }
    )
    action = {"look": look, "scan": scan, "clean": clean}[module.params["action"]]
    os.umask(0o077)
    try:
        module.exit_json(changed=False, **action(module.params))
    except HostError as error:
        module.fail_json(msg=str(error), kind=error.kind)
    except OSError as error:
        kinds = {1: "no access", 13: "no access", 27: "full", 28: "full", 122: "full"}
        module.fail_json(msg=str(error), kind=kinds.get(error.errno or 0, "failed"))


if __name__ == "__main__":
    main()
