# SPDX-License-Identifier: GPL-2.0-or-later
"""Damages guests' memory word by word, and looks that both ways of reading it end, and say the same.

    PYTHONPATH=tests python -m fuzz.images 100000

The quick ways through memory that is mapped in one piece keep what they learnt from one image to the next; the careful
ones begin anew at each. What the quick give and the careful do not is a wrong answer that nobody would notice. Each
image is a sample with one to forty words changed, of which one part is read; changed words are put back, not pages.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from itertools import islice, zip_longest
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from guest.images import NAMES, image
from guest.scenes import SCENES
from guest.test_flat import FlatMemory

from drakmet.errors import GuestError
from drakmet.guest.crosscheck import Crosscheck
from drakmet.guest.fetch import compile_field
from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.guest.modules import Modules
from drakmet.guest.mounts import Mounts
from drakmet.guest.pids import Pids
from drakmet.guest.regions import Regions
from drakmet.guest.sockettables import SocketTables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_NUMBERS = (0, 1, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096)
_NOTED = 4096
_ANEW = 50
"""Images after which the careful reader is made anew: it keeps nothing, but that is what is to be shown."""


class _Careful:
    """The same memory without its mapping: every read takes the long way, and its words are noted."""

    def __init__(self, memory: FlatMemory) -> None:
        self._memory = memory
        self.size = memory.size
        self.words: set[int] = set()

    def read(self, gpa: int, length: int) -> bytes:
        data = self._memory.read(gpa, length)
        if length <= _NOTED:
            self.words.update(range(gpa >> 3, gpa + length + 7 >> 3))
        return data

    def read_u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")


class Reader:
    """A guest, and what a campaign reads of it by name: each gives a list of values or says what it could not."""

    def __init__(self, name: str, memory: Any) -> None:
        found = image(name).kernel
        kernel = Kernel(found.profile, memory, found.base, found.slide, found.levels)
        self.guest = guest = LinuxGuest(kernel)
        self.books = Crosscheck(kernel)
        self.sockets = SocketTables(kernel, guest.sockets)
        self.modules, self.mounts, self.regions = Modules(kernel), Mounts(kernel, guest.paths), Regions(kernel)
        self.fetchers: dict[str, list[Callable[[Any], Any]]] = {}
        for scene in SCENES:
            for expression in scene.fields:
                fetch = compile_field(expression, scene.function, guest.types).bind(guest)
                self.fetchers.setdefault(scene.function, []).append(fetch)

    def process(self, task: int, _regs: Any) -> list[Any]:
        return [_tried(self.guest.task_reader.process, task)]

    def cached(self, task: int, _regs: Any) -> list[Any]:
        _tried(self.guest.process, task)
        return []  # what an executable was called at first is kept on purpose

    def listed(self, _task: int, _regs: Any) -> list[Any]:
        return _all(self.guest.tasks())

    def by_number(self, _task: int, _regs: Any) -> list[Any]:
        pids = Pids(self.guest.kernel)
        return _all(pids.tasks()) + _all(pids.running())

    def threads(self, task: int, _regs: Any) -> list[Any]:
        return _all(self.guest.threads(task))

    def files(self, task: int, _regs: Any) -> list[Any]:
        found = _all(self.guest.open_files(task))
        return found + [_tried(self.guest.file, one[1]) for one in found if isinstance(one, tuple)]

    def sockets_of(self, task: int, _regs: Any) -> list[Any]:
        files = [one[1] for one in _all(self.guest.open_files(task)) if isinstance(one, tuple)]
        socks = [_tried(self.guest.sockets.sock_of_file, one) for one in files]
        return [_tried(self.sockets.describe, one) for one in socks if isinstance(one, int) and one]

    def program(self, task: int, _regs: Any) -> list[Any]:
        return [
            _tried(self.guest.cwd, task),
            _tried(lambda: self.guest.argv(self.guest.task_reader.mm(task))),
            *_all(islice(self._regions(task), 200)),
        ]

    def _regions(self, task: int) -> Iterator[Any]:
        mm = self.guest.task_reader.mm(task)
        if mm:
            yield from self.regions.of(mm)

    def kernel_modules(self, _task: int, _regs: Any) -> list[Any]:
        found = _all(self.modules.listed()) + _all(self.modules.by_address())
        return found + [_tried(self.modules.module, one) for one in found if isinstance(one, int)]

    def mounted(self, task: int, _regs: Any) -> list[Any]:
        namespace = _tried(self.mounts.namespace, task)
        if not isinstance(namespace, int):
            return [namespace]
        found = _all(islice(self.mounts.of(namespace), 200))
        return [_tried(self.mounts.mount, one) if isinstance(one, int) else one for one in found]

    def who_runs(self, task: int, regs: Any) -> list[Any]:
        return [
            _tried(self.books.roots, task),
            _tried(self.books.absent, task, regs.gs_base),
            _tried(self.books.owner, regs.cr3),
            _tried(self.guest.current_task, regs.gs_base),
        ]

    def fetched(self, _task: int, regs: Any) -> list[Any]:
        return [_tried(fetch, regs) for fetch in self.fetchers.get(regs.function, ())]


_PARTS = (
    "process", "cached", "listed", "by_number", "threads", "files", "sockets_of", "program", "kernel_modules",
    "mounted", "who_runs", "fetched", "fetched", "process",
)  # fmt: skip


class _No:
    """What could not be read; why may be said in other words."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _No)

    __hash__ = None  # type: ignore[assignment]  # only compared


def _tried(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        value = function(*arguments)
    except GuestError:
        return _No()
    return _No() if isinstance(value, GuestError) else _plain(value)


def _plain(value: Any) -> Any:
    """Return a process without the words in which it says what it lacks."""
    missing = getattr(value, "missing", None)
    return _without(value, sorted(missing)) if isinstance(missing, dict) else value


def _without(value: Any, names: list[str]) -> tuple[Any, ...]:
    return (*(getattr(value, name) for name in value.__struct_fields__ if name != "missing"), *names)


def _all(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    try:
        for value in values:
            found.append(_plain(value))  # noqa: PERF401  # what was sound before the damage counts
    except GuestError:
        found.append(_No())
    return found


class Sample:
    """One of the samples, with its frames in one piece."""

    def __init__(self, name: str) -> None:
        loaded = image(name)
        pages = {**{gfn: page for overlay in loaded.overlays for gfn, page in overlay.items()}, **loaded.memory.pages}
        self.name = name
        self.memory = FlatMemory(SparseMemory(pages, loaded.memory.size))
        self.quick = Reader(name, self.memory)
        self.offset = self.quick.guest.kernel.page_offset
        self.tasks = list(self.quick.guest.tasks())
        self.count = self.quick.guest.kernel.gpa(self.quick.guest.kernel.address("mount_lock")) >> 3
        self.mounts = self._words_of_mounts()
        self.hits = [SimpleNamespace(**hit["regs"], function=hit["function"], vcpu_id=0) for hit in loaded.hits]

    def _words_of_mounts(self) -> set[int]:
        """Return the words of mounts, of what they are mounted on, and of all above that."""
        kernel, reader, types = self.quick.guest.kernel, self.quick.mounts, self.quick.guest.types
        on, parent = types.offset("mount", "mnt_mountpoint"), types.offset("dentry", "d_parent")
        found: set[int] = set()

        def note(address: int, kind: str) -> None:
            gpa = kernel.gpa(address)
            found.update(range(gpa >> 3, gpa + types.size(kind) >> 3))

        for namespace in {_tried(reader.namespace, task) for task in self.tasks} - {0}:
            for mount in reader.of(namespace):
                note(mount, "mount")
                dentry, above = self._word(mount + on), 0
                while dentry != above:
                    note(dentry, "dentry")
                    above, dentry = dentry, self._word(dentry + parent)
        assert found
        return found

    def _word(self, address: int) -> int:
        return self.quick.guest.space.read_u64(address)

    def damage(self, chance: random.Random, read: list[int]) -> dict[int, int]:
        """Change some of the words that were read; return what stood in their places, by number of the word.

        What is kept of mounts is kept for as long as the kernel's count of their changes is the same, as its own
        readers do. So either it counts on, or mounts are left alone.
        """
        words = self.memory.words
        before = {self.count: words[self.count]}
        if chance.random() < 0.5:
            words[self.count] += 2
        else:
            read = [place for place in read if place not in self.mounts] or read[:1]
        pointers = [at for at in read if words[at] >= self.offset]
        for _ in range(chance.choice([1, 1, 2, 5, 20])):
            place = chance.choice(pointers if pointers and chance.random() < 0.6 else read)
            before.setdefault(place, words[place])
            words[place] = chance.choice([
                place * 8 + self.offset, chance.choice(read) * 8 + self.offset, words[chance.choice(read)],
                chance.getrandbits(64), chance.choice(_NUMBERS), words[place] ^ 1 << chance.randrange(64),
            ]) & (1 << 64) - 1  # fmt: skip
        return before


def run(count: int, seed: int = 1, slowest: float = 10.0) -> Counter[str]:
    """Read ``count`` damaged images; return what came of them. It raises for what broke."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, no secret
    samples = [Sample(name) for name in NAMES]
    careful: dict[str, tuple[Reader, _Careful]] = {}
    told: Counter[str] = Counter()
    for number in range(count):
        sample = samples[number % len(samples)]
        if sample.name not in careful or chance.randrange(_ANEW) == 0:
            memory = _Careful(sample.memory)
            careful[sample.name] = Reader(sample.name, memory), memory
        slow_reader, memory = careful[sample.name]
        part, task, regs = chance.choice(_PARTS), chance.choice(sample.tasks), chance.choice(sample.hits)
        where = f"image {number} of seed {seed}, {sample.name}, {part}"
        whole = getattr(sample.quick, part)(task, regs)
        memory.words = set()
        assert getattr(slow_reader, part)(task, regs) == whole, f"{where}: undamaged, the two ways differ"
        if not memory.words:
            continue
        before = sample.damage(chance, sorted(memory.words))
        start = time.monotonic()
        try:
            try:
                quick = getattr(sample.quick, part)(task, regs)
                slow = getattr(slow_reader, part)(task, regs)
            except Exception as error:
                raise AssertionError(f"{where}: {error!r}") from error
            if quick != slow and part == "fetched":
                # A process seen before is told as it was then for as long as its own words stand (ProcessCache): the
                # names of its cgroup and namespaces lie behind those, and no kernel changes them in place.
                told["told a process as it was before"] += 1
                for one in sample.tasks:
                    sample.quick.guest.processes.drop(one)
                quick = getattr(sample.quick, part)(task, regs)
            differ = [pair for pair in zip_longest(quick, slow, fillvalue="nothing") if pair[0] != pair[1]]
            assert not differ, f"{where}: {len(differ)} differ, the quick way first: {differ[:2]}"
            took = time.monotonic() - start
            assert took < slowest, f"{where} took {took:.1f} s"
        finally:
            for place, word in before.items():
                sample.memory.words[place] = word
        again = getattr(sample.quick, part)(task, regs)
        assert again == whole, f"{where}: mended, it is not what it was: {again}, {whole}"
        told["images"] += 1
        told["values"] += len(quick)
        told["said that something cannot be read" if any(map(_lacks, quick)) else "read whole"] += 1
        told["read otherwise than undamaged"] += quick != whole
    return told


def _lacks(value: Any) -> bool:
    return isinstance(value, _No)


if __name__ == "__main__":
    print(dict(run(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
