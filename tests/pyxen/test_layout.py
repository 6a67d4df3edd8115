# SPDX-License-Identifier: GPL-2.0-or-later
"""The declared layouts against Xen's own headers, through the C compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from drakmet.pyxen import layout, registers
from drakmet.pyxen._ffi import ffi

needs_headers = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/xen/vm_event.h").exists(),
    reason="gcc and Xen's headers (libxen-dev) are not installed",
)

PREAMBLE = """
#define __XEN_TOOLS__ 1
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <errno.h>
#include <xenctrl.h>
#include <xen/vm_event.h>
#include <xen/io/ring.h>
#include <xen/hvm/save.h>
#include <xen/domctl.h>
#include <xen/sysctl.h>
#include <xen/sys/evtchn.h>
#include <sys/ioctl.h>
#define SHOW(name, value) printf("%s %lld\\n", name, (long long)(value))
int main(void) {
"""


def measure(tmp_path: Path, values: dict[str, str]) -> dict[str, int]:
    """Return what the compiler makes of each C expression."""
    source = tmp_path / "measure.c"
    lines = [f'SHOW("{name}", {expression});' for name, expression in values.items()]
    source.write_text(PREAMBLE + "\n".join(lines) + "\nreturn 0; }\n")
    binary = tmp_path / "measure"
    subprocess.run(["gcc", "-w", "-o", str(binary), str(source)], check=True, timeout=60)
    output = subprocess.run([str(binary)], check=True, capture_output=True, text=True, timeout=60).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


@needs_headers
def test_event_layout_is_that_of_the_header(tmp_path: Path) -> None:
    request = "vm_event_request_t"
    wanted: dict[str, str] = {}
    declared: dict[str, int] = {}
    bitfields = {"cs", "ss", "ds", "es", "fs", "gs"}  # no offsetof for these: cs_base.. and fs_base enclose them
    for name in ("version", "flags", "reason", "vcpu_id", "altp2m_idx"):
        wanted[name] = f"offsetof({request}, {name})"
        declared[name] = layout.EVENT.offsets[name]
    for name, offset in layout.REGS_LAYOUT.offsets.items():
        wanted[f"regs.{name}"] = f"offsetof({request}, data.regs.x86.{name})"
        declared[f"regs.{name}"] = layout.REGS + offset
        if name not in bitfields:
            wanted[f"size.{name}"] = f"sizeof((({request} *)0)->data.regs.x86.{name})"
            declared[f"size.{name}"] = {"Q": 8, "I": 4, "H": 2}[layout.REGS_LAYOUT.formats[name]]
    for part, fields in layout.PART_LAYOUTS.items():
        member = "interrupt.x86" if part == "interrupt" else part
        for name, offset in fields.offsets.items():
            wanted[f"{part}.{name}"] = f"offsetof({request}, u.{member}.{name})"
            declared[f"{part}.{name}"] = offset
    wanted |= {
        "slot": f"sizeof({request})",
        "header": "offsetof(struct vm_event_sring, ring)",
        "slots": "__RING_SIZE((struct vm_event_sring *)0, 4096)",
        "interface": "VM_EVENT_INTERFACE_VERSION",
        "req_prod": "offsetof(struct vm_event_sring, req_prod)",
        "req_event": "offsetof(struct vm_event_sring, req_event)",
        "rsp_prod": "offsetof(struct vm_event_sring, rsp_prod)",
        "rsp_event": "offsetof(struct vm_event_sring, rsp_event)",
        "insn_data": "sizeof(struct vm_event_emul_insn_data)",
        "insn_at": f"offsetof({request}, data.emul.insn.data)",
    }
    declared |= {
        "slot": layout.SLOT_SIZE,
        "header": layout.RING_HEADER,
        "slots": layout.SLOTS,
        "interface": layout.INTERFACE_VERSION,
        "req_prod": 0,
        "req_event": 4,
        "rsp_prod": 8,
        "rsp_event": 12,
        "insn_data": 16,
        "insn_at": layout.EVENT.offsets["rax"],
    }
    assert measure(tmp_path, wanted) == declared


@needs_headers
def test_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    wanted, declared = {}, {}
    for prefix, names in (("VM_EVENT_REASON_", layout.Reason), ("VM_EVENT_FLAG_", layout.Flag)):
        for one in names:
            if one is layout.Reason.IO_INSTRUCTION:  # newer than 4.17's header
                continue
            wanted[prefix + str(one.name)] = prefix + str(one.name)
            declared[prefix + str(one.name)] = int(one)
    for one in layout.AccessFlag:
        wanted[f"MEM_ACCESS_{one.name}"] = f"MEM_ACCESS_{one.name}"
        declared[f"MEM_ACCESS_{one.name}"] = int(one)
    for register in layout.ControlRegister:
        wanted[f"VM_EVENT_X86_{register.name}"] = f"VM_EVENT_X86_{register.name}"
        declared[f"VM_EVENT_X86_{register.name}"] = int(register)
    wanted["notify"] = "IOCTL_EVTCHN_NOTIFY"
    declared["notify"] = 0x44504  # what evtchn.py computes; checked there as well
    from drakmet.pyxen import evtchn

    assert declared["notify"] == evtchn._IOCTL_NOTIFY
    assert measure(tmp_path, wanted) == declared


@needs_headers
def test_saved_cpu_and_c_structures_are_those_of_the_headers(tmp_path: Path) -> None:
    wanted = {
        name: f"offsetof(struct hvm_hw_cpu, {name})"
        for name in registers.HVM_CPU_LAYOUT.offsets
        if name != "pending_event"
    }
    declared = {name: registers.HVM_CPU_LAYOUT.offsets[name] for name in wanted}
    wanted["size"] = "sizeof(struct hvm_hw_cpu)"
    declared["size"] = registers.HVM_CPU_SIZE
    for ours, theirs in (
        ("xc_domaininfo_t", "xc_domaininfo_t"),
        ("xc_vcpuinfo_t", "xc_vcpuinfo_t"),
        ("xc_physinfo_t", "xc_physinfo_t"),
    ):
        fields = [name for name, _ in ffi.typeof(ours).fields if name != "spare"]
        for name in fields:
            wanted[f"{ours}.{name}"] = f"offsetof({theirs}, {name})"
            declared[f"{ours}.{name}"] = ffi.offsetof(ours, name)
    assert measure(tmp_path, wanted) == declared
    room = measure(
        tmp_path, {name: f"sizeof({name})" for name in ("xc_domaininfo_t", "xc_vcpuinfo_t", "xc_physinfo_t")}
    )
    assert all(ffi.sizeof(name) > size for name, size in room.items())


def test_reader_reads_what_was_named_in_the_order_of_addresses() -> None:
    made, order = layout.EVENT.reader(["rip", "reason", "gfn"])
    slot = bytearray(layout.SLOT_SIZE)
    for name, value in (("rip", 3), ("reason", 1), ("gfn", 2)):
        at = layout.EVENT.offsets[name]
        slot[at : at + 1] = bytes([value])
    assert order == ["reason", "gfn", "rip"]
    assert made.unpack_from(slot) == (1, 2, 3)
