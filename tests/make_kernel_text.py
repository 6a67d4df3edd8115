# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the text of real kernels with their packages, and makes tests/data/text-*: a few pages of each.

    python tests/make_kernel_text.py boot NAME.raw --root DIR [--cpu CPU] [--smp N] [--append 'traced ...']
    python tests/make_kernel_text.py check NAME.raw --kernel FILE.deb
    python tests/make_kernel_text.py sample VERSION NAME.raw --kernel FILE.deb
    python tests/make_kernel_text.py views NAME.raw

``boot`` needs qemu-system-x86_64, cpio and gcc with a static libc; DIR is what a linux-image package unpacks to. It
loads modules and, with "traced", lets ftrace and kprobes work, with "poked" writes into a child's code. ``check`` ends
with 1 if a byte is unexplained.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from guest import text_sample

from drakmet.errors import GuestError
from drakmet.guest import kernel
from drakmet.guest.kerneltext.compare import compare
from drakmet.guest.kerneltext.guest import GuestText
from drakmet.guest.kerneltext.image import Image, Span
from drakmet.guest.kerneltext.tables import Tables
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import ImageMemory, RecordingMemory, SparseMemory
from drakmet.guest.modules import Modules
from drakmet.guest.profile import Profile
from drakmet.lab.kernels import Kernel, module_files
from drakmet.scan.codeviews import CodeViews
from drakmet.scan.kernelfiles import KernelFiles
from drakmet.scan.session import Reading

MODULES = [
    *("fuse", "cuse", "tun", "dummy", "crc7", "ext4", "loop", "dm_mod", "nf_tables", "nft_ct", "sctp", "aesni_intel"),
    *("crc32c_intel", "virtio_net", "e1000", "kvm", "overlay", "veth", "xt_conntrack", "raid6_pq", "btrfs", "drm"),
    *("ghash_clmulni_intel", "nls_utf8", "vhost_net"),
]
MARGIN = 256
KEPT = ("ftrace_call", "ftrace_regs_call", "do_sys_openat2")


def boot(target: Path, root: Path, cpu: str, smp: int, append: str) -> None:
    """Boot a kernel under QEMU until its init is ready, and keep its memory."""
    image = next((root / "boot").glob("vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    folder = next(one for one in (root / "lib/modules" / release, root / "usr/lib/modules" / release) if one.is_dir())
    work = target.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    for one in ("modules", "proc", "sys", "dev"):
        (work / "root" / one).mkdir(parents=True)
    for number, (name, data) in enumerate(module_files(Kernel(release, image, folder), MODULES)):
        (work / "root/modules" / f"{number:03}-{name}.ko").write_bytes(data)
    init = Path(__file__).parent / "guest/text_init.c"
    subprocess.run(["gcc", "-static", "-O1", "-s", "-o", str(work / "root/init"), str(init)], check=True)
    names = "".join(f"{path.relative_to(work / 'root')}\n" for path in sorted((work / "root").rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=work / "root",
        input=names.encode(),
        capture_output=True,
        check=True,
    )
    (work / "initrd").write_bytes(gzip.compress(packed.stdout, 1))
    machine = subprocess.Popen(
        ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-cpu", cpu, "-m", "320",
         "-smp", str(smp), "-object", f"memory-backend-file,id=ram,size=320M,mem-path={work}/ram,share=on",
         "-machine", "q35,memory-backend=ram", "-kernel", str(image), "-initrd", str(work / "initrd"),
         "-append", f"quiet console=ttyS0 panic=-1 {append}", "-debugcon", f"file:{work}/told",
         "-serial", f"file:{work}/serial"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 300
    while not ((work / "told").exists() and "ready" in (work / "told").read_text()):
        if machine.poll() is not None or time.monotonic() > until:
            machine.kill()
            raise SystemExit("the guest did not get ready: " + (work / "serial").read_text()[-500:])
        time.sleep(0.5)
    time.sleep(2)
    machine.send_signal(signal.SIGSTOP)
    subprocess.run(["cp", "--sparse=always", str(work / "ram"), str(target)], check=True)
    machine.kill()
    machine.wait()
    shutil.rmtree(work)


class Compared:
    """An image of a guest's memory and the files of its kernel."""

    def __init__(self, path: Path, package: Path, profile: Profile | None = None) -> None:
        self.memory = RecordingMemory(ImageMemory(path))
        found = kernel.find(ImageMemory(path), profiles=[profile] if profile else ())
        self.kernel = kernel.Kernel(found.profile, self.memory, found.base, found.slide, found.levels)
        files = KernelFiles([package])
        reference = files.find(self.kernel.build_id, self.kernel.profile.release)
        if reference is None:
            raise SystemExit("the package is not that of this kernel")
        self.reference = reference
        reader = Modules(self.kernel)
        self.modules = [reader.module(address) for address in reader.listed()]
        self.files = files.modules(self.kernel.build_id, [one.name for one in self.modules])
        self.text = GuestText(self.kernel, reference, lambda name: self.files.get(name.replace("-", "_")))
        self.text.place(self.modules)


def check(path: Path, package: Path) -> int:
    """Print what was compared and return the number of bytes that nothing explains."""
    one = Compared(path, package)
    total, explained, pages, hooks = 0, Counter[str](), 0, 0
    results = [one.text.compare_kernel(), *(one.text.compare_module(module) for module in one.modules)]
    for module, result in zip([None, *one.modules], results, strict=True):
        if result is None:
            print(module and module.name, one.text.problems)
            total += 1
            continue
        total += result.modified + result.unknown + result.not_read
        pages, hooks = pages + result.pages, hooks + result.hooks
        explained += result.explained
        for odd in result.differences:
            if odd.kind == "modified":
                print(result.name, odd)
    print(f"{path.name}: {one.kernel.profile.release}, slide {one.kernel.slide:#x}, {len(one.modules)} modules, "
          f"{pages} pages, {explained.total()} bytes explained, {hooks} hooks, {total} bytes unexplained")  # fmt: skip
    print("   ", dict(explained))
    return total


def sample(version: str, path: Path, package: Path) -> None:
    """Keep pages in which each kind of patch occurs, the module dummy, and what comparing these takes."""
    whole = Compared(path, package)
    image, types = whole.text.image, whole.reference.profile.types
    tables = Tables(image, types)
    whole.text.compare_kernel()
    explainer = whole.text._tracing.explainer
    assert explainer is not None
    kinds: dict[int, Counter[str]] = {}
    (span,) = image.text
    for page in range(span.start, span.end - 4095, 4096):
        part = Image(None, image._pieces, [Span(page, page + 4096, ".text")], {}, image.symbol_at)
        kinds[page] = compare(part, explainer, whole.kernel.space.read).explained
    chosen = {whole.kernel.address(name) & ~4095 for name in KEPT}
    for kind in sorted(set().union(*kinds.values())):
        order = sorted((page for page in kinds if kinds[page][kind]), key=lambda page: (-len(kinds[page]), page))
        chosen |= set(order[:1])
    pages = sorted(chosen)
    print(version, len(pages), "pages", sum((kinds[page] for page in pages), Counter()))
    write(version, whole, pages, tables)


def write(version: str, whole: Compared, pages: list[int], tables: Tables) -> None:
    image, types = whole.text.image, whole.reference.profile.types
    ranges = [(max(page - MARGIN, image.text[0].start), page + 4096 + MARGIN) for page in pages]
    for first, last in (("ftrace_caller", "ftrace_caller_end"), ("ftrace_regs_caller", "ftrace_regs_caller_end")):
        ranges.append((whole.kernel.address(first), whole.kernel.address(last)))
    groups = [group for group in tables.groups if any(a <= group.start < b for a, b in ranges)]
    replaced = [(e.replacement, e.replacement + max(e.replacement_length, 1) + 8) for g in groups for e in g.entries]
    ranges += replaced
    kept = text_sample.encode(tables, types, lambda address: any(a <= address < b for a, b in ranges))
    pieces: list[tuple[int, bytes]] = []
    at = 0
    for start, end in sorted(ranges):
        start = max(start, at)
        while end > start:
            try:
                pieces.append((start, image.read(start, end - start)))
            except GuestError:  # the end of a section
                end -= 1
            else:
                at = end
                break
    pieces = joined(pieces)
    fresh = Profile.load(kernel_profile(whole))
    thunks = ("__x86_indirect", "srso_", "retbleed_return", "its_return", "call_depth_return")
    for address, _, name in whole.reference.symbols:
        here = any(start <= whole.kernel.slid(address) < end for start, end in ranges)
        if name.startswith(thunks) or (here and name.startswith("__SCT__")):
            fresh.symbols.get(name)
    for page in pages:
        for address in range(page, page + 4096, 16):
            fresh.symbols.at(address - whole.kernel.slide)
    for name in ("dentry_hashtable", "d_hash_shift", "__x86_return_thunk", "_text", "_end", "init_top_pgt",
                 "page_offset_base"):  # fmt: skip
        fresh.symbols.get(name)
    memory = RecordingMemory(whole.memory)
    found = whole.kernel
    placed = kernel.Kernel(fresh, memory, found.base, found.slide, found.levels)
    module = next(one for one in whole.modules if one.name == "dummy")
    part = Asked(None, pieces, [Span(page, page + 4096, ".text") for page in pages], text_sample.tables_of(kept),
                 image.symbol_at)  # fmt: skip
    part.entries, part.whole = {}, image
    exported = {name: whole.reference.exported[name] for name in undefined(whole.files["dummy"]) if name in
                whole.reference.exported}  # fmt: skip
    reference: Any = text_sample.SampleReference(fresh, part, exported)
    text = GuestText(placed, reference, {"dummy": whole.files["dummy"]}.get)
    text.place([module])
    results = [text.compare_kernel(), text.compare_module(module)]
    for result in results:
        assert result is not None
        print("   ", result.pages, result.modified, dict(result.explained), result.hooks)
        assert not result.modified, result.differences
    target = text_sample.DATA / f"text-{version}.pages"
    SparseMemory(memory.touched, memory.size).save(target)
    target.chmod(0o644)
    body = {
        "profile": fresh.subset(),
        "base": found.base, "slide": found.slide, "levels": found.levels,
        "pieces": [(start, text_sample.pack(data)) for start, data in pieces],
        "text": [(page, page + 4096) for page in pages],
        "tables": {name: text_sample.pack(data) for name, data in kept.items()},
        "exported": exported,
        "entries": sorted(part.entries.items()),
        "module": msgspec.structs.asdict(module),
        "file": text_sample.pack(whole.files["dummy"]),
    }  # fmt: skip
    packed = gzip.compress(json.dumps(body, separators=(",", ":")).encode(), 9, mtime=0)
    (text_sample.DATA / f"text-{version}.json.gz").write_bytes(packed)
    print(f"    {target.stat().st_size} + {len(packed)} bytes")


def views(path: Path) -> None:
    """Keep the pages that comparing processes' code with the page cache reads, of a guest booted with "poked"."""
    memory = RecordingMemory(ImageMemory(path))
    found = kernel.find(ImageMemory(path))
    target = Path(tempfile.gettempdir()) / f"views-{found.build_id}.profile"
    found.profile.save(target)
    fresh = Profile.load(target)
    placed = kernel.Kernel(fresh, memory, found.base, found.slide, found.levels)
    for name in ("task_struct", "mm_struct", "vm_area_struct", "file", "inode", "dentry", "page", "signal_struct"):
        # All of it: what else is asked of these some day is to be there.
        for member in fresh.types.members(fresh.types.struct(name)):
            with contextlib.suppress(GuestError):
                fresh.types.offset(name, member)
    print(list(CodeViews(memory, moves=False)(Reading(LinuxGuest(placed), 1, 1, 1))))
    data = text_sample.DATA / "views-6.12.pages"
    SparseMemory(memory.touched, memory.size).save(data)
    data.chmod(0o644)
    body = {"profile": fresh.subset(), "place": [found.base, found.slide, found.levels]}
    packed = gzip.compress(json.dumps(body, separators=(",", ":")).encode(), 9, mtime=0)
    (text_sample.DATA / "views-6.12.json.gz").write_bytes(packed)
    print(len(memory.touched), "pages", data.stat().st_size, "+", len(packed), "bytes")


class Asked(text_sample.SampleImage):
    """Part of an image that keeps which functions of the whole were asked for."""

    whole: Image

    def is_text(self, address: int) -> bool:
        if self.whole.is_text(address):
            self.is_entry(address)
        return self.whole.is_text(address)

    def is_entry(self, address: int) -> bool:
        good = self.whole.is_entry(address)
        if good:
            self.entries[address] = (self.whole.symbol_at(address) or ("", 0))[0]
        return good


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return pieces with neighbours made one."""
    found: list[tuple[int, bytes]] = []
    for start, data in pieces:
        if found and found[-1][0] + len(found[-1][1]) == start:
            found[-1] = found[-1][0], found[-1][1] + data
        else:
            found.append((start, data))
    return found


def kernel_profile(whole: Compared) -> Path:
    """Write the profile to where it can be mapped afresh: what is asked of it from now on is what the sample needs."""
    target = Path(tempfile.gettempdir()) / f"text-{whole.kernel.build_id}.profile"
    whole.kernel.profile.save(target)
    return target


def undefined(data: bytes) -> list[str]:
    """Return the names of what a module takes from others."""
    from drakmet.guest.kerneltext.elf import Elf

    return [symbol.name for symbol in Elf(data).symbols() if not symbol.section and symbol.name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["boot", "check", "sample", "views"])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--cpu", default="Haswell")
    parser.add_argument("--smp", type=int, default=1)
    parser.add_argument("--append", default="")
    options = parser.parse_args()
    if options.what == "boot":
        boot(Path(options.names[0]), options.root, options.cpu, options.smp, options.append)
    elif options.what == "sample":
        sample(options.names[0], Path(options.names[1]), options.kernel)
    elif options.what == "views":
        views(Path(options.names[0]))
    else:
        return 1 if sum(check(Path(name), options.kernel) for name in options.names) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
