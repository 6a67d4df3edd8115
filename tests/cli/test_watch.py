# SPDX-License-Identifier: GPL-2.0-or-later
"""`drakmet watch` where it cannot work: told why and what to do, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from drakmet import cli

ON_XEN = Path("/proc/xen/privcmd").exists() or Path("/dev/xen/privcmd").exists()


@pytest.mark.skipif(ON_XEN, reason="this machine runs Xen")
@pytest.mark.parametrize("command", ["watch", "record"])
def test_without_xen_it_says_what_is_missing_and_leaves_no_file(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "--db" if command == "watch" else "-o"
    monkeypatch.setattr("sys.argv", ["drakmet", command, "xen:web1", option, str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 4
    assert "xen" in capsys.readouterr().err.lower()
    assert list(tmp_path.iterdir()) == []
