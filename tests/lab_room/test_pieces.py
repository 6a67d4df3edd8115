# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's parts that need no emulator: sources of packages, archives, disks, kernels, protocol, hosts' names."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from drakmet.errors import LabError, UsageError
from drakmet.lab import archive, checkout, disks, emulators, hosts, images, kernels
from drakmet.lab.client import Agent, Upload
from drakmet.lab.cpio import Cpio
from drakmet.lab.places import Places, built_file, built_folder, find_places
from drakmet.lab.progress import Progress
from drakmet.lab.roots import Root, key_of

DEB822 = """\
# main
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://archive.example/security
Suites: bookworm-security
Components: main
"""
ONE_LINE = (
    "# deb http://no.example/debian bookworm main\n"
    "deb [signed-by=/k.gpg arch=amd64] http://old.example/debian bookworm main non-free # x\n"
    "deb-src http://src.example/debian bookworm main\n"
    "deb http://vendor.example/apt stable tool\n"
)


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list").write_text(ONE_LINE)
    return tmp_path


def test_another_release_comes_from_where_this_one_comes_from(apt: Path) -> None:
    found = archive.sources_for("trixie", "bookworm", archive.machine_sources(apt))
    assert [(s.uris, s.suite, s.components) for s in found] == [
        ("http://old.example/debian", "trixie", "main"),
        ("http://archive.example/debian", "trixie", "main"),
        ("http://archive.example/security", "trixie-security", "main"),
    ]
    assert found[0].signed_by == "/k.gpg"
    assert found[1].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_a_machine_without_debian_sources_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no source for bookworm"):
        archive.sources_for("trixie", "bookworm", archive.machine_sources(tmp_path))
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nVERSION_CODENAME=""\n')
    with pytest.raises(LabError, match="Debian only"):
        archive.machine_release(release)


def test_what_apt_prints_names_package_version_and_file() -> None:
    line = "'http://a.example/pool/x_1%3a2.0-1_amd64.deb' x_1%3a2.0-1_amd64.deb 123 SHA256:ab"
    package = archive.parse_uri_line(line)
    assert (package.name, package.version, package.hash) == ("x", "1:2.0-1", "SHA256:ab")
    with pytest.raises(LabError, match="not understood"):
        archive.parse_uri_line("E: Unable to locate package x")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio here to compare with")
def test_cpio_itself_reads_what_is_written(tmp_path: Path) -> None:
    packed = Cpio()
    packed.file("init", b"#!/bin/sh\n", 0o755)
    packed.file("a/b/odd", b"12345")
    packed.link("a/link", "b/odd")
    listed = subprocess.run(["cpio", "-tv"], input=packed.packed(), capture_output=True, check=True).stdout.decode()
    names = [line.split()[-1] for line in listed.splitlines()]
    assert names == ["init", "a", "a/b", "a/b/odd", "b/odd"]
    subprocess.run(["cpio", "-id", "--quiet"], input=packed.packed(), cwd=tmp_path, check=True)
    assert (tmp_path / "a/b/odd").read_bytes() == b"12345"
    assert os.access(tmp_path / "init", os.X_OK)


def module(name: str, *depends: str) -> bytes:
    return f"\x7fELF..\0name={name}\0depends={','.join(depends)}\0license=GPL\0".encode()


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "sd-mod.ko").write_bytes(module("sd_mod", "scsi_mod", "t10-pi"))
    (tmp_path / "scsi_mod.ko").write_bytes(module("scsi_mod", "scsi_common"))
    (tmp_path / "scsi_common.ko").write_bytes(module("scsi_common"))
    (tmp_path / "t10-pi.ko").write_bytes(module("t10_pi", "sd_mod"))
    kernel = kernels.Kernel("6", tmp_path / "vmlinuz", tmp_path)
    names = [name for name, _ in kernels.module_files(kernel, ["sd_mod", "built-in"])]
    assert names == ["scsi_common", "scsi_mod", "t10_pi", "sd_mod"]


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(bytes(4096))
    with pytest.raises(LabError, match="not a bzImage"):
        kernels.lighten(tmp_path / "vmlinuz", None, tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(LabError, match="expected one kernel"):
        kernels.kernel_of(tmp_path)


def test_disks_are_whole_cylinders(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    for size, cylinders in ((1, 1), (disks.CYLINDER, 1), (disks.CYLINDER + 1, 2)):
        disk.write_bytes(b"x")
        os.truncate(disk, size)
        disks.pad(disk)
        assert disk.stat().st_size == cylinders * disks.CYLINDER


def test_half_built_things_are_never_found(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), built_folder(tmp_path / "folder") as work:
        (work / "file").touch()
        raise RuntimeError
    with pytest.raises(RuntimeError), built_file(tmp_path / "file") as work:
        work.touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_keys_tell_inputs_apart_and_not_the_day() -> None:
    assert key_of("a", ["b"]) == key_of("a", ["b"])
    assert key_of("a", ["b"]) != key_of("a", ["c"])
    assert key_of("a", ["b"]) != key_of(["a", "b"])


def test_the_package_and_its_neighbours_go_into_dom0() -> None:
    files = checkout.sources()
    assert "drakmet/__init__.py" in files
    assert not [name for name in files if "__pycache__" in name or name.startswith("tests")]
    assert set(checkout.digests(files)) == set(files)
    assert any(name.startswith("cffi") for name in checkout.requirements())
    assert "drakmet" in checkout.metadata()["entry_points.txt"]


@pytest.fixture
def agent(tmp_path: Path) -> object:
    """An agent on this machine, as it runs in dom0."""
    script = Path(emulators.__file__).parent / "inside/agent"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    moved = tmp_path / "agent.py"
    moved.write_text(script.read_text().replace("PORT = 7001", f"PORT = {port}"))
    process = subprocess.Popen([sys.executable, "-S", str(moved), "127.0.0.1", "secret"])
    known = Agent(port, "secret")
    deadline = time.monotonic() + 10
    while not known.answers(1.0) and time.monotonic() < deadline:
        time.sleep(0.02)
    yield known, port
    process.kill()
    process.wait()


def test_a_command_gets_input_and_gives_output_and_exit_code(agent: tuple[Agent, int]) -> None:
    known, _ = agent
    data = os.urandom(300_000)
    done = known.run(["sh", "-c", "cat; echo no >&2; exit 9"], stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (9, data, b"no\n")
    assert known.run(["sh", "-c", "kill -9 $$"]).returncode == 137
    assert known.run(["no-such-program"]).returncode == 127
    assert known.run(["sh", "-c", 'echo "$A"; pwd'], env={"A": "1 2"}, cwd="/usr").stdout == b"1 2\n/usr\n"
    # What stays behind in the background does not hold the caller.
    begun = time.monotonic()
    assert known.run(["sh", "-c", "sleep 5 & echo out"]).stdout == b"out\n"
    assert time.monotonic() - begun < 4
    with pytest.raises(LabError, match="ended with 3"):
        known.run(["sh", "-c", "exit 3"], check=True)


def test_a_caller_that_goes_away_takes_its_command_along(agent: tuple[Agent, int], tmp_path: Path) -> None:
    known, _ = agent
    mark = tmp_path / "ended"
    with known.connect() as connection:
        connection.request(
            "secret", op="exec", argv=["sh", "-c", f"trap 'echo > {mark}; exit' TERM; echo up; sleep 60 & wait"]
        )
        assert connection.frame() == (b"O", b"up\n")
    deadline = time.monotonic() + 5
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert mark.exists()


def test_a_signal_reaches_the_command(agent: tuple[Agent, int]) -> None:
    known, _ = agent
    with known.connect() as connection:
        connection.request("secret", op="exec", argv=["sh", "-c", "trap 'exit 5' INT; echo up; sleep 60 & wait"])
        assert connection.frame() == (b"O", b"up\n")
        connection.send(b"S", struct.pack(">i", 2))
        assert connection.collect(lambda _: None, lambda _: None) == 5


def test_files_are_written_with_mode_and_time_and_fetched(agent: tuple[Agent, int], tmp_path: Path) -> None:
    known, _ = agent
    target = tmp_path / "deep" / "file"
    (tmp_path / "old").touch()
    uploads = [Upload(str(target), b"x" * 200_000, 0o640, 1000), Upload(str(tmp_path), b"y", name="inside")]
    known.push(uploads, remove=[str(tmp_path / "old")])
    assert (target.stat().st_mode & 0o777, target.stat().st_mtime) == (0o640, 1000)
    assert (tmp_path / "inside").read_bytes() == b"y"
    assert not (tmp_path / "old").exists()
    known.pull(str(target), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == target.read_bytes()
    with pytest.raises(LabError, match="No such file"):
        known.pull(str(tmp_path / "nothing"), tmp_path / "copy2")
    assert not (tmp_path / "copy2").exists()


def test_who_does_not_know_the_token_gets_nothing(agent: tuple[Agent, int]) -> None:
    _, port = agent
    done = Agent(port, "guess").run(["echo", "in"])
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"wrong token" in done.stderr


def test_a_relay_to_a_guest_that_is_not_there_says_so(agent: tuple[Agent, int]) -> None:
    known, _ = agent
    with pytest.raises(LabError, match="does not answer"):
        known.guest("127.0.0.2").run(["true"])


def test_a_host_that_is_not_there_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAKMET_LAB_DIR", str(tmp_path))
    places = find_places()
    assert places == Places(tmp_path / "cache", tmp_path / "state")
    with pytest.raises(LabError, match="no host lab is up") as caught:
        hosts.find_host(places, "lab")
    assert caught.value.hint is not None
    assert "drakmet lab up" in caught.value.hint
    assert hosts.known_hosts(places) == []
    assert hosts.down(places, "lab") is False


def test_a_host_whose_emulator_has_ended_shows_its_last_words(tmp_path: Path) -> None:
    places = Places(tmp_path / "cache", tmp_path / "state")
    folder = places.hosts / "old"
    folder.mkdir(parents=True)
    (folder / "console.log").write_text("(XEN) Panic on CPU 0\n\x1b[31m")
    hosts.finished(hosts.Host("old", folder, 2**22 + 1, 1, 1, "t", hosts.Choice(guests=2), 0.0), 5.0)
    (known,) = hosts.known_hosts(places)
    assert (known.seconds, known.guest_names(), known.running) == (5.0, ["web1", "web2"], False)
    with pytest.raises(LabError, match="has ended") as caught:
        hosts.find_host(places, "old")
    assert "Panic on CPU 0" in str(caught.value.hint)
    assert "\x1b" not in str(caught.value.hint)
    assert hosts.down(places, "old") is True
    assert not folder.exists()


def bochs(folder: Path, cpus: int) -> tuple[list[str], str]:
    """Return the command line and the configuration of an emulated host."""
    folder.mkdir()
    for name in ("boot.src", "dom0.src", "drakmet.src", "guest.src"):
        (folder / name).write_bytes(bytes(63 * 16 * 512))
    sources = [folder / f"{name}.src" for name in ("boot", "dom0", "drakmet", "guest")]
    made = images.Images(*sources, "t", folder, folder, Root(folder, "k"), "k")
    command, _ = emulators.bochs(folder, made, emulators.Machine(1312, cpus, 7))
    return command, (folder / "bochsrc").read_text()


def test_a_host_with_two_cpus_tells_its_bios_and_runs_in_the_loop_that_is_sound(tmp_path: Path) -> None:
    command, text = bochs(tmp_path / "one", 1)
    assert "count=1" in text
    assert "cmosimage" not in text
    assert "-debugger" not in command
    command, text = bochs(tmp_path / "two", 2)
    assert "count=2" in text
    assert command[-3:] == ["-debugger", "-rc", str(tmp_path / "two/debugger.rc")]
    registers = (tmp_path / "two/cmos.img").read_bytes()
    assert len(registers) == 128
    assert registers[0x5F] == 1
    assert int.from_bytes(registers[0x34:0x36], "little") * 64 + (16 << 10) == 1312 << 10
    assert int.from_bytes(registers[0x17:0x19], "little") == 0xFC00


def test_of_several_cpus_the_first_is_dom0s_and_the_guests_have_the_others() -> None:
    assert "dom0_vcpus_pin" not in hosts.Choice().xen_options
    assert hosts.Choice(host_cpus=2).xen_options.endswith("dom0_max_vcpus=1 dom0_vcpus_pin")


@pytest.mark.parametrize(
    "choice",
    [
        hosts.Choice(kind="kvm"),
        hosts.Choice(guests=9),
        hosts.Choice(guest_vcpus=0),
        hosts.Choice(host_cpus=0),
        hosts.Choice(host_cpus=9),
    ],
)
def test_a_host_that_cannot_be_is_refused(choice: hosts.Choice) -> None:
    with pytest.raises(UsageError):
        choice.check()


def test_every_lab_command_has_help_with_an_example() -> None:
    from drakmet.cli.lab import lab

    for name in lab.commands:
        shown = CliRunner().invoke(lab, [name, "--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.output, name


def test_a_host_that_is_up_is_not_replaced_by_one_with_other_settings(tmp_path: Path) -> None:
    places = Places(tmp_path / "cache", tmp_path / "state")
    folder = places.hosts / "mine"
    folder.mkdir(parents=True)
    # This process stands for the emulator.
    started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    hosts.finished(hosts.Host("mine", folder, os.getpid(), started, 1, "t", hosts.Choice(), 0.0), 5.0)
    assert hosts.up(places, "mine", hosts.Choice(), Progress(quiet=True)).pid == os.getpid()
    with pytest.raises(UsageError, match="other settings"):
        hosts.up(places, "mine", hosts.Choice(guests=2), Progress(quiet=True))


def test_a_host_whose_emulator_ended_at_once_does_not_run(tmp_path: Path) -> None:
    """It had no start time to read any more, and a process that is not there has none: that is not the same one."""
    assert not hosts.Host("dead", tmp_path, 2**22 + 1, 0, 1, "t", hosts.Choice(), 0.0).running
