# SPDX-License-Identifier: GPL-2.0-or-later
"""Where rules come from: the bundled directory, and a site's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import drakmet
from drakmet.errors import DrakmetError, RuleError
from drakmet.rules.format import Rule, RuleFile, load
from drakmet.rules.lists import List, load_lists
from drakmet.rules.site import FILE, Site, load_site
from drakmet.rules.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules, the lists they use, what the site says about them, and the errors of those that could not be read."""

    files: list[RuleFile]
    lists: dict[str, List]
    errors: list[DrakmetError]
    site: Site = field(default_factory=Site)

    @property
    def rules(self) -> list[Rule]:
        """The rules as they are judged: without their files, with the site's parameters; may raise `RuleError`."""
        return [self.site.apply(file.rule) for file in self.files]

    @property
    def where(self) -> dict[str, str]:
        """Where the SQL of each rule stands, as ``file:line``, by the rules' ids."""
        return {file.rule.id: file.where("sql") for file in self.files}


def bundled() -> Path:
    """Return the directory of the rules that come with drakmet."""
    package = Path(drakmet.__file__).parent
    shipped = package / "_bundled" / "rules"
    return shipped if shipped.is_dir() else package.parent / "rules"


def load_rules(paths: Iterable[Path | str] | None = None, *, strict: bool = True) -> RuleSet:
    """Read rule files, and all of directories with their ``lists/``; without ``paths`` the bundled ones.

    A single file uses the lists beside it and the bundled ones; a rule of the same id in a later path replaces the
    earlier. With ``strict`` the first wrong file raises its `RuleError`, else errors are returned.
    """
    given = [Path(path) for path in paths] if paths is not None else [bundled()]
    errors: list[DrakmetError] = []
    files: dict[str, RuleFile] = {}
    for path in given:
        if not path.exists():
            raise RuleError("there is no such file or directory", where=str(path), hint="give rule files (*.toml)")
        for file in _rule_files(path):
            try:
                loaded = load(file)
            except RuleError as error:
                if strict:
                    raise
                errors.append(error)
                continue
            # A wrong id, which the linter tells, must not hide another rule.
            files[loaded.rule.id if loaded.rule.id == file.stem else str(file)] = loaded
    directories = dict.fromkeys([bundled(), *(path if path.is_dir() else path.parent for path in given)])
    loaded_set = RuleSet(list(files.values()), load_lists(directories), errors, load_site(directories))
    known = {file.rule.id for file in loaded_set.files}
    for name in loaded_set.site.parameters:
        # Of a single file's check others are not known.
        if bundled() in given and name not in known:
            raise RuleError(
                f"there is no rule {name}", where=f"parameters.{name} of {FILE}", hint=did_you_mean(name, known)
            )
    for rule in loaded_set.files:
        loaded_set.site.apply(rule.rule)
    return loaded_set


def _rule_files(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.toml") if file.name != FILE) if path.is_dir() else [path]
