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
    found = RuleSet(list(files.values()), load_lists(directories, None if strict else errors), errors)
    try:
        return RuleSet(found.files, found.lists, errors, _site(found, directories, every=bundled() in given))
    except RuleError as error:
        if strict:
            raise
        errors.append(error)
        return found


def _site(found: RuleSet, directories: Iterable[Path], *, every: bool) -> Site:
    """Read what the site says; with ``every`` all rules are there, so that one it names must be."""
    site = load_site(directories)
    for one in found.files:
        site.apply(one.rule)
    known = {one.rule.id for one in found.files}
    if (unknown := site.parameters.keys() - known) and every:
        name = min(unknown)
        hint = did_you_mean(name, known)
        raise RuleError(f"there is no rule {name}", where=f"parameters.{name} of {FILE}", hint=hint)
    return site


def _rule_files(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.toml") if file.name != FILE) if path.is_dir() else [path]
