# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are no Sigma rules: refused with their place, never a crash."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drakmet.rules.sigma.importer import Entry, convert_rules, read_rules
from drakmet.rules.trial import Laboratory

SOUND = """title: x
logsource: {product: linux, category: process_creation}
detection:
  selection:
    Image: /bin/x
  condition: selection
"""


def read(path: Path, text: str | bytes) -> list[Entry]:
    file = path / "rule.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rules([file])


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("title: [x\n", 2, "not YAML"),
        ("title: x\n\tdetection: y\n", 2, "not YAML"),
        (BOMB, 2, "alias"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", 3, "merge key"),
        ("title: x\n" + SOUND, 2, "comes twice"),
        (SOUND.replace("    Image: /bin/x\n", "    Image: /bin/x\n    Image: /bin/y\n"), 6, "comes twice"),
        ("[" * 100_000, 1, "levels"),
        ("- x\n" * 60_000, 50_000, "values"),
        (f"x: !!python/object/apply:os.system ['true']\n{SOUND}", 1, "not YAML"),
        (b"title: \xff\xfe\n", None, "not UTF-8"),
        ("x" * (2 << 20), None, "too long"),
        ("date: 2024-99-99\n" + SOUND, None, "not YAML"),
    ],
)
def test_yaml_that_is_none_is_told_with_its_place(
    tmp_path: Path, text: str | bytes, line: int | None, reason: str
) -> None:
    (entry,) = read(tmp_path, text)
    assert entry.kind == "file"
    assert reason in str(entry.reason)
    assert entry.where == f"{tmp_path / 'rule.yml'}" + (f":{line}" if line else "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text\n",
        "- a\n- b\n",
        "title: 5\n",
        SOUND.replace("title: x", "title: []"),
        SOUND.replace("{product: linux, category: process_creation}", "linux"),
        SOUND.replace("    Image: /bin/x", "    Image: {a: {b: c}}"),
        SOUND.replace("selection:\n    Image: /bin/x", "selection: {}"),
        SOUND.replace("condition: selection", "condition: 5"),
        SOUND.replace("condition: selection", "condition: selection and"),
        SOUND.replace("condition: selection", "condition: nothing"),
        SOUND.replace("condition: selection", "condition: 1 of nothing*"),
        SOUND.replace("condition: selection", "x: y"),
        SOUND.replace("title: x", "title: x\nid: no\nstatus: 7\nlevel: terrible"),
        SOUND.replace("title: x", "title: x\ntags: {a: b}"),
        SOUND.replace("title: x", "title: x\naction: dance"),
        "title: x\ncorrelation: [1]\n",
        "title: x\nfilter: 7\nlogsource: {product: linux}\n",
    ],
)
def test_what_is_no_rule_is_refused(tmp_path: Path, laboratory: Laboratory, text: str) -> None:
    found = list(convert_rules(read(tmp_path, text), {}, laboratory))
    # A filter by itself is no rule, and nothing is said of it.
    assert found or "filter" in text
    assert all(entry.kind and entry.reason and entry.text is None for entry in found)


def test_no_python_is_made_of_yaml(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, "title: !!python/name:os.system\n")
    assert entry.kind == "file"


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cut=st.integers(0, len(SOUND)), put=st.text(max_size=8), width=st.integers(0, 12))
def test_no_change_of_a_rule_makes_reading_fail(tmp_path: Path, cut: int, put: str, width: int) -> None:
    text = SOUND[:cut] + put + SOUND[cut + width :]
    for entry in read(tmp_path, text.encode("utf-8", "replace")):
        assert entry.sigma is not None or entry.reason
