# SPDX-License-Identifier: GPL-2.0-or-later
"""One tree of errors: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What every drakmet command ends with."""

    CLEAN = 0
    FINDINGS = 1
    USAGE = 2
    PARTLY = 3
    FAILED = 4


class DrakmetError(Exception):
    """Something a person can act on.

    ``what`` is the fault in a sentence, ``where`` the file, line, domain or call it belongs to,
    ``hint`` what to do. ``exit_code`` is what a command that meets it ends with.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text


class UsageError(DrakmetError):
    """The command, or a file it was given, is not what drakmet can take."""

    exit_code = ExitCode.USAGE


class XenError(DrakmetError):
    """A call into Xen failed."""


class GuestError(DrakmetError):
    """The guest's memory does not hold what was looked for."""


class StoreError(DrakmetError):
    """A database cannot be opened, read or written."""


class PluginError(DrakmetError):
    """A plugin cannot be loaded or used."""


class RuleError(UsageError):
    """A rule file is wrong."""


class LabError(DrakmetError):
    """The emulated Xen host cannot be built, started or reached."""
