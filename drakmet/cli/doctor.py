# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet doctor``: what this machine can watch, and what it lacks, before anything is touched."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import DrakmetError, ExitCode, XenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.pyxen import Control

OLDEST_PYTHON = (3, 11)


class Check(NamedTuple):
    """One thing that was looked at: ``ok``, ``missing`` (watching needs it) or ``note`` (some of it does)."""

    check: str
    state: str
    found: str
    hint: str | None = None


@click.command(short_help="Say what this machine can watch, and what it lacks.")
@output_options
def doctor(output: Format) -> None:
    """Say what this machine can watch, and what it lacks.

    Nothing is changed, in no guest and on no host. Ends with 0 if guests can be watched from here, else with 3.

    \b
    Example:
      drakmet doctor
      drakmet doctor --json
    """
    checks = [*_machine(), *_drakmet(), *_xen()]
    emit([check._asdict() for check in checks], Check._fields, output)
    if any(check.state == "missing" for check in checks):
        raise click.exceptions.Exit(ExitCode.PARTLY)


def _machine() -> Iterator[Check]:
    state = "ok" if sys.version_info >= OLDEST_PYTHON else "missing"
    yield Check(
        "python", state, platform.python_version(), "drakmet needs Python 3.11 or later" if state != "ok" else None
    )
    if os.geteuid() == 0:
        yield Check("root", "ok", "yes")
    else:
        yield Check("root", "missing", "no", "only root in dom0 may look into guests: sudo drakmet ...")
    try:
        capabilities = Path("/proc/xen/capabilities").read_text(encoding="ascii").strip()
    except OSError:
        yield Check(
            "dom0", "missing", "this is no Xen host", "boot Xen, or run `drakmet lab up` for a Xen host in an emulator"
        )
    else:
        if "control_d" in capabilities:
            yield Check("dom0", "ok", capabilities)
        else:
            yield Check("dom0", "missing", "this is a Xen guest", "run drakmet in dom0")


def _drakmet() -> Iterator[Check]:
    from drakmet.plugins import load_plugins
    from drakmet.rules import load_rules

    yield _tried("plugins", lambda: f"{len(load_plugins().plugins)} loaded")
    yield _tried("rules", lambda: f"{len(load_rules().rules)} loaded")


def _xen() -> Iterator[Check]:
    from drakmet.pyxen import Control, Xenstore
    from drakmet.pyxen.layout import INTERFACE_VERSION

    try:
        control = Control()
    except XenError as error:
        yield Check("xen", "missing", error.what, error.hint)
        return
    with control:
        yield _tried("xen", control.version)
        version = control.event_version()
        if version == INTERFACE_VERSION:
            yield Check("event interface", "ok", f"version {version}")
        else:
            hint = f"this drakmet speaks version {INTERFACE_VERSION}: use one made for this Xen"
            yield Check("event interface", "missing", f"version {version}", hint)
        try:
            store = Xenstore()
        except XenError as error:
            yield Check("xenstore", "missing", error.what, error.hint)
            return
        with store:
            for info in control.domains():
                if info.domid:
                    yield _guest(control, info.domid, store.name_of(info.domid) or str(info.domid), hvm=info.hvm)


def _guest(control: Control, domid: int, name: str, *, hvm: bool) -> Check:
    from drakmet.pyxen.control import HVM_PARAM_ALTP2M

    title = f"guest {name}"
    if not hvm:
        return Check(title, "note", "PV", "only HVM and PVH guests have the second-level tables that traps need")
    try:
        altp2m = control.hvm_param(domid, HVM_PARAM_ALTP2M)
    except XenError as error:
        return Check(title, "note", error.what, error.hint)
    if not altp2m:
        return Check(title, "note", "no altp2m", 'put altp2m="external" into its configuration and start it anew')
    return Check(title, "ok", "can be watched")


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except DrakmetError as error:
        return Check(name, "missing", error.what, error.hint)
