# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables and rules to try the machinery with."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from drakmet.records import Address, EventRecord
from drakmet.rules.format import RuleFile
from drakmet.rules.trial import Laboratory


class Opened(EventRecord):
    """A file was opened."""

    path: Annotated[str | None, "its path"] = None
    result: Annotated[int | None, "0 or an error"] = None
    at: Annotated[Address | None, "an address"] = None
    words: Annotated[list[str] | None, "a list"] = None


class Connected(EventRecord):
    """A connection was tried."""

    indexes: ClassVar = (("process",),)
    address: Annotated[str | None, "to where"] = None
    port: Annotated[int | None, "to which port"] = None


RULE = """
id = "secret"
title = "A secret was read"
level = "high"
status = "test"
description = "Somebody opened a secret."
attack = ["T1005"]
from = "opened"
message = "{exe} opened {path}"
sql = \"\"\"
SELECT opened.id, path, exe
FROM opened
LEFT JOIN process ON process.id = opened.process
WHERE path GLOB '/secret/*'
\"\"\"

[[test]]
title = "it is opened"
rows.process = [{ id = 1, exe = "/bin/cat" }]
rows.opened = [{ process = 1, path = "/secret/a" }, { path = "/secret/b" }]
findings = ["/bin/cat opened /secret/a", "? opened /secret/b"]

[[test]]
title = "others are"
rows.opened = [{ path = "/etc/passwd" }]
findings = 0
"""


def rule(**changes: str) -> RuleFile:
    """Return the rule above with keys replaced by other TOML; a key that is not there is put at the top."""
    text = RULE
    for key, value in changes.items():
        key = {"tables": "from"}.get(key, key)
        lines = text.split("\n")
        if key == "sql":
            begin, end = text.index("sql ="), text.index("[[test]]")
            text = f"{text[:begin]}sql = '''\n{value}\n'''\n\n{text[end:]}"
        elif any(line.startswith(f"{key} =") for line in lines):
            text = "\n".join(f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines)
        else:
            text = f"\n{key} = {value}{text}"
    return RuleFile(Path("secret.toml"), text)


@pytest.fixture(scope="session")
def laboratory() -> Laboratory:
    return Laboratory([Opened, Connected])


@pytest.fixture
def connection(laboratory: Laboratory) -> Iterator[sqlite3.Connection]:
    """An empty database in memory with the tables above."""
    with closing(laboratory.connection()) as opened:
        yield opened
