# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet lab``: a whole Xen host in an emulator."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drakmet.errors import ExitCode, LabError, UsageError

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

_COMMAND_CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group()
def lab() -> None:
    """Run a whole Xen host with guests in an emulator.

    A real Xen hypervisor, a dom0 with this drakmet installed, and PVH guests that can be watched: all from
    Debian's packages, unpacked in a cache of their own; nothing is installed and no root is needed.

    \b
    Example:
      drakmet lab up                          a host with one guest, web1
      drakmet lab exec lab -- xl list         a command in its dom0
      drakmet lab guest web1 -- uname -a      a command in the guest
      drakmet lab down
    """


@lab.command()
@click.option("--name", default="lab", show_default=True, help="what the host is called")
@click.option(
    "--kind",
    type=click.Choice(["vmx", "svm"]),
    default="vmx",
    show_default=True,
    help="vmx: Bochs, traps work; svm: QEMU, quick, no traps",
)
@click.option(
    "--xen",
    type=click.Choice(["4.17", "4.20"]),
    default="4.17",
    show_default=True,
    help="Xen's version, and with it dom0's Debian (12, 13)",
)
@click.option(
    "--guest-kernel",
    type=click.Choice(["5.10", "6.1", "6.12"]),
    default="6.1",
    show_default=True,
    help="the guests' Linux",
)
@click.option("--guests", default=1, show_default=True, help="how many guests: web1, web2, ...")
@click.option("--guest-memory", default=256, show_default=True, help="MiB a guest")
@click.option("--vcpus", default=2, show_default=True, help="vCPUs a guest")
@click.option("--dom0-memory", default=768, show_default=True, help="MiB of dom0")
@click.option("--host-cpus", default=1, show_default=True, help="the host's CPUs; of more than one the first is dom0's")
@click.option("--refresh", is_flag=True, help="ask the archive for newer packages (else once a week)")
@click.option("--quiet", is_flag=True, help="no progress on standard error")
def up(
    name: str,
    kind: str,
    xen: str,
    guest_kernel: str,
    guests: int,
    guest_memory: int,
    vcpus: int,
    dom0_memory: int,
    host_cpus: int,
    refresh: bool,
    quiet: bool,
) -> None:
    """Build what is missing, start a host, and return when its guests run.

    The emulator stays in the background. A host of that name that is up is left as it is, and drakmet in it is brought
    up to date.

    \b
    Example:
      drakmet lab up --kind svm --name quick
    """
    from drakmet.lab.hosts import Choice, finished, up
    from drakmet.lab.places import find_places
    from drakmet.lab.progress import Progress
    from drakmet.lab.sync import sync

    progress = Progress(quiet=quiet)
    choice = Choice(kind, xen, guest_kernel, guests, guest_memory, vcpus, dom0_memory, host_cpus)
    places = find_places()
    host = up(places, name, choice, progress, refresh=refresh)
    if host.seconds:
        changed = sync(places, host, progress)
        progress.note(f"drakmet in dom0: {len(changed)} files changed")
    else:
        finished(host, progress.seconds)


@lab.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="all hosts")
def down(name: str | None, every: bool) -> None:
    """End a host (the one there is, if it is the only one).

    \b
    Example:
      drakmet lab down
    """
    from drakmet.lab import hosts
    from drakmet.lab.places import find_places

    places = find_places()
    known = [host.name for host in hosts.known_hosts(places)]
    if name is None and not every and len(known) > 1:
        raise UsageError("more than one host is known", hint=f"Name one of {', '.join(known)}, or --all.")
    for each in [name] if name else known:
        ended = hosts.down(places, each)
        click.echo(f"{each}: {'ended' if ended else 'there is no such host'}", err=True)
        if not ended:
            sys.exit(ExitCode.USAGE)


@lab.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def status(as_json: bool) -> None:
    """Say which hosts are up, and which guests run in them.

    \b
    Example:
      drakmet lab status --json
    """
    from drakmet.lab import hosts
    from drakmet.lab.places import find_places

    found = [hosts.status(host) for host in hosts.known_hosts(find_places())]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no host is up; `drakmet lab up` starts one")
    for host in found:
        state = f"pid {host['pid']}, up in {host['up_seconds']} s" if host["running"] else "ENDED"
        click.echo(
            f"{host['name']}: {host['kind']}, Xen {host['xen']}, guests' Linux {host['guest_kernel']}; {state}; "
            f"{host['folder']}" + (f"; {host['trouble']}" if "trouble" in host else "")
        )
        for guest in host["guests"]:
            click.echo(
                f"  {guest['name']}: domain {guest['domid']}, {guest['memory']} MiB, {guest['vcpus']} vCPUs, "
                f"{guest['cpu_seconds']} s of CPU"
            )


@lab.command()
@click.argument("names", metavar="[HOST]...", nargs=-1)
def inventory(names: tuple[str, ...]) -> None:
    """Let SSH into hosts (all that are up and have a port for it), and print an Ansible inventory of them.

    \b
    Example:
      drakmet lab inventory > lab.yml && drakmet fleet scan -i lab.yml
    """
    from drakmet.lab import hosts
    from drakmet.lab.places import find_places
    from drakmet.lab.progress import Progress
    from drakmet.lab.ssh import inventory, open_ssh

    places, progress = find_places(), Progress()
    chosen = [hosts.find_host(places, name) for name in names]
    if not names:
        chosen = [host for host in hosts.known_hosts(places) if host.running and host.ssh_port]
    if not chosen:
        raise UsageError("no host that SSH reaches is up", hint="Start one: `drakmet lab up --kind svm`.")
    click.echo(inventory([open_ssh(places, host, progress) for host in chosen]), nl=False)


@lab.command("exec", context_settings=_COMMAND_CONTEXT)
@click.option("-i", "--stdin", "with_input", is_flag=True, help="give the command this standard input")
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(with_input: bool, host: str, command: tuple[str, ...]) -> None:
    """Run a command in a host's dom0: its output, its exit code; signals are passed on.

    \b
    Example:
      drakmet lab exec lab -- drakmet watch xen:web1 --for 10
    """
    from drakmet.lab.hosts import find_host
    from drakmet.lab.places import find_places

    _stream(find_host(find_places(), host).agent, command, with_input=with_input)


@lab.command(context_settings=_COMMAND_CONTEXT)
@click.option("--host", help="the guest's host, if more than one is up")
@click.option("-i", "--stdin", "with_input", is_flag=True, help="give the command this standard input")
@click.argument("guest")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def guest(host: str | None, with_input: bool, guest: str, command: tuple[str, ...]) -> None:
    """Run a command in a guest: its output, its exit code.

    \b
    Example:
      drakmet lab guest web1 -- workload --rounds 3
    """
    from drakmet.lab.hosts import find_host
    from drakmet.lab.places import find_places

    _stream(find_host(find_places(), host).guest(guest), command, with_input=with_input)


@lab.command()
@click.option("--host", help="the guest's host, if more than one is up")
@click.argument("guest")
def console(host: str | None, guest: str) -> None:
    """Show a guest's console: what it has said so far, then what it says, until Ctrl-C.

    \b
    Example:
      drakmet lab console web1
    """
    from drakmet.lab.hosts import find_host
    from drakmet.lab.places import find_places

    found = find_host(find_places(), host)
    found.guest(guest)
    sys.exit(found.agent.stream(["tail", "-n", "+1", "-F", f"/var/log/xen/console/guest-{guest}.log"]))


@lab.command()
@click.argument("host")
@click.argument("local", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.argument("remote")
@click.option("--guest", "in_guest", help="into a guest of the host instead of its dom0")
def push(host: str, local: tuple[Path, ...], remote: str, in_guest: str | None) -> None:
    """Copy files or folders into a host's dom0 (REMOTE: a file's name, or a folder that is there).

    \b
    Example:
      drakmet lab push lab script.py /root/
    """
    from drakmet.lab import transfer

    transfer.push(_agent(host, in_guest), local, remote)


@lab.command()
@click.argument("host")
@click.argument("remote")
@click.argument("local", required=False, default=".", type=click.Path(path_type=Path))
@click.option("--guest", "in_guest", help="from a guest of the host instead of its dom0")
def pull(host: str, remote: str, local: Path, in_guest: str | None) -> None:
    """Copy a file or folder out of a host's dom0.

    \b
    Example:
      drakmet lab pull lab /root/watch.db .
    """
    from drakmet.lab import transfer

    transfer.pull(_agent(host, in_guest), remote, local)


@lab.command()
@click.argument("host", required=False)
def sync(host: str | None) -> None:
    """Bring the drakmet in dom0 up to date with this checkout.

    \b
    Example:
      drakmet lab sync && drakmet lab exec lab -- drakmet --version
    """
    from drakmet.lab.hosts import find_host
    from drakmet.lab.places import find_places
    from drakmet.lab.progress import Progress
    from drakmet.lab.sync import sync as bring

    progress = Progress()
    places = find_places()
    changed = bring(places, find_host(places, host), progress)
    for name in changed[:20]:
        click.echo(f"  {name}", err=True)
    click.echo(f"{len(changed)} files changed in dom0 ({progress.seconds:.1f} s)", err=True)


@lab.command()
@click.option("--xen", type=click.Choice(["4.17", "4.20"]), default="4.17", show_default=True)
@click.option("--guest-kernel", type=click.Choice(["5.10", "6.1", "6.12"]), default="6.1", show_default=True)
@click.option("--refresh", is_flag=True, help="ask the archive for newer packages (else once a week)")
def build(xen: str, guest_kernel: str, refresh: bool) -> None:
    """Build all images without starting a host, for instance ahead of time.

    \b
    Example:
      drakmet lab build --xen 4.20
    """
    from drakmet.lab.emulators import XEN_OPTIONS
    from drakmet.lab.hosts import Choice
    from drakmet.lab.images import Builder
    from drakmet.lab.places import find_places
    from drakmet.lab.progress import Progress

    builder = Builder(find_places().cache, Progress(), xen=xen, guest_kernel=guest_kernel, refresh=refresh)
    for kind, options in XEN_OPTIONS.items():
        builder.build(options, dom0_memory=Choice().dom0_memory, kind=kind)
    builder.qemu()


@lab.command()
@click.option("--packages", is_flag=True, help="only print the Debian packages that the lab needs installed")
def doctor(packages: bool) -> None:
    """Say what this machine lacks for the lab, and the command that installs it.

    \b
    Example:
      drakmet lab doctor
    """
    from drakmet.lab.doctor import check_machine, install_command, needed_packages

    if packages:
        click.echo(" ".join(needed_packages()))
        return
    checks = check_machine()
    for check in checks:
        click.echo(f"{'ok  ' if check.good else 'MISS'}  {check.what}: {check.said}")
    command = install_command(checks)
    if command:
        click.echo(f"\nInstall what is missing:\n  {command}")
    if not all(check.good for check in checks):
        sys.exit(ExitCode.FAILED)


def _agent(host: str, guest: str | None) -> Agent:
    found = _host(host)
    return found.guest(guest) if guest else found.agent


def _host(name: str) -> Host:
    from drakmet.lab.hosts import find_host
    from drakmet.lab.places import find_places

    return find_host(find_places(), name)


def _stream(agent: Agent, command: tuple[str, ...], *, with_input: bool) -> None:
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise UsageError("which command?", hint="For instance: `drakmet lab exec lab -- xl list`.")
    try:
        code = agent.stream(words, stdin=sys.stdin.buffer if with_input else None)
    except LabError as error:
        raise LabError(error.what, where=shlex.join(words)[:200], hint=error.hint) from error
    sys.exit(code)


if __name__ == "__main__":
    lab()
