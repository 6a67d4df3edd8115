# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundle: named by what is in it, and not run if a byte of it is another."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from drakmet.fleet.bundle import Bundle, make_bundle
from drakmet.fleet.library import drakmet_host
from drakmet.fleet.library.drakmet_host import HostError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def unpacked(bundle: Bundle, tmp_path: Path) -> Path:
    archive = tmp_path / "sent.tar.gz"
    shutil.copyfile(bundle.archive, archive)
    drakmet_host.unpack(archive, tmp_path / "bundle", bundle.digest)
    assert not archive.exists()
    return tmp_path / "bundle"


def test_what_was_sent_is_what_is_run(unpacked: Path, bundle: Bundle) -> None:
    drakmet_host.check(unpacked, bundle.digest)
    assert {path.name for path in unpacked.iterdir()} >= {"run.py", "src", "site", "MANIFEST"}
    with pytest.raises(HostError, match="not the one that was sent"):
        drakmet_host.check(unpacked, "0" * 64)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes() + b"#"), "was changed"),
        (lambda file: file.unlink(), "is gone"),
        (lambda file: file.with_name("more.py").write_text(""), "not in its manifest"),
        (lambda file: (file.rename(file.with_name("x")), file.symlink_to("x"), file), "not in its manifest"),
    ],
)
def test_another_byte_or_file_is_refused_and_the_bundle_removed(
    unpacked: Path, bundle: Bundle, how: object, said: str
) -> None:
    assert callable(how)
    how(unpacked / "src" / "drakmet" / "__init__.py")
    with pytest.raises(HostError, match=said) as caught:
        drakmet_host.check(unpacked, bundle.digest)
    assert caught.value.kind == "broken bundle"
    assert not unpacked.exists()


def test_an_archive_that_was_cut_off_or_leads_elsewhere_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    archive = tmp_path / "sent.tar.gz"
    archive.write_bytes(Path(bundle.archive).read_bytes()[:-1000])
    with pytest.raises(HostError, match="broken"):
        drakmet_host.unpack(archive, tmp_path / "bundle", bundle.digest)
    for name in ("../out", "/tmp/out"):  # noqa: S108 - an attack
        with tarfile.open(archive, "w:gz") as packed:
            packed.addfile(tarfile.TarInfo(name))
        with pytest.raises(HostError, match="holds"):
            drakmet_host.unpack(archive, tmp_path / "bundle", bundle.digest)
    assert [path.name for path in tmp_path.iterdir()] == ["sent.tar.gz"]


def test_a_folder_that_is_not_the_users_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(HostError) as caught:
            drakmet_host.look({"dir": str(folder), "need_xen": False, "peek": False})
        return caught.value.kind

    mine, link = tmp_path / "mine", tmp_path / "link"
    assert drakmet_host.look({"dir": str(mine), "need_xen": False, "peek": False})["bundles"] == []
    link.symlink_to(mine)
    assert refused(link) == "unsafe folder"
    mine.chmod(0o777)
    assert refused(mine) == "unsafe folder"
    mine.chmod(0o700)
    monkeypatch.setattr("os.geteuid", lambda: mine.stat().st_uid + 1)
    assert refused(mine) == "no access"


def test_the_inventory_says_which_python_runs_the_module() -> None:
    # Ansible puts ansible_python_interpreter in the place of exactly this line, and takes any other for an order.
    assert Path(drakmet_host.__file__).read_text().splitlines()[0] == "#!/usr/bin/python"
