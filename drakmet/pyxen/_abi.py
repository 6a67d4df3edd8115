# SPDX-License-Identifier: GPL-2.0-or-later
"""The C declarations the bindings are made of, and the making of ``_ffi.py`` from them.

Signatures and structures are those of Xen 4.17's ``xenctrl.h``, ``xenevtchn.h``, ``xenforeignmemory.h``,
``xenstore.h``, ``xen/domctl.h`` and ``xen/sysctl.h``; only what is the same in 4.20 is here. Structures that later
versions may lengthen end in spare room, so that a newer library never writes past them.

Parsing C at run time costs 200 million instructions, more than attaching does; so cffi's tables are kept in
``_ffi.py``, written by ``python -m drakmet.pyxen._abi`` and checked by a test.
"""

from __future__ import annotations

from pathlib import Path

CDEF = """
typedef struct xc_interface_core xc_interface;
typedef struct xentoollog_logger xentoollog_logger;
typedef struct xenevtchn_handle xenevtchn_handle;
typedef struct xenforeignmemory_handle xenforeignmemory_handle;
typedef struct xs_handle xs_handle;
typedef struct _IO_FILE FILE;
typedef unsigned long xen_pfn_t;

typedef struct {
    uint16_t domain;
    uint16_t pad1;
    uint32_t flags;
    uint64_t tot_pages;
    uint64_t max_pages;
    uint64_t outstanding_pages;
    uint64_t shr_pages;
    uint64_t paged_pages;
    uint64_t shared_info_frame;
    uint64_t cpu_time;
    uint32_t nr_online_vcpus;
    uint32_t max_vcpu_id;
    uint32_t ssidref;
    uint8_t handle[16];
    uint32_t cpupool;
    uint8_t gpaddr_bits;
    uint8_t spare[512];
} xc_domaininfo_t;

typedef struct {
    uint32_t vcpu;
    uint8_t online;
    uint8_t blocked;
    uint8_t running;
    uint64_t cpu_time;
    uint32_t cpu;
    uint8_t spare[64];
} xc_vcpuinfo_t;

typedef struct {
    uint32_t threads_per_core;
    uint32_t cores_per_socket;
    uint32_t nr_cpus;
    uint32_t max_cpu_id;
    uint32_t nr_nodes;
    uint32_t max_node_id;
    uint32_t cpu_khz;
    uint32_t capabilities;
    uint32_t arch_capabilities;
    uint32_t pad;
    uint64_t total_pages;
    uint64_t free_pages;
    uint64_t scrub_pages;
    uint64_t outstanding_pages;
    uint64_t max_mfn;
    uint32_t hw_cap[8];
    uint8_t spare[256];
} xc_physinfo_t;

typedef struct {
    uint16_t dom;
    uint32_t port;
    uint32_t status;
    uint32_t vcpu;
    uint16_t remote_dom;
    uint32_t remote_port;
} xc_evtchn_status_t;

typedef struct {
    int code;
    char message[1024];
} xc_error;

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild_logger, unsigned open_flags);
int xc_interface_close(xc_interface *xch);
const xc_error *xc_get_last_error(xc_interface *xch);
void xc_clear_last_error(xc_interface *xch);
int xc_version(xc_interface *xch, int cmd, void *arg);
int xc_physinfo(xc_interface *xch, xc_physinfo_t *info);
int xc_domain_getinfolist(xc_interface *xch, uint32_t first_domain, unsigned int max_domains, xc_domaininfo_t *info);
int xc_domain_pause(xc_interface *xch, uint32_t domid);
int xc_domain_unpause(xc_interface *xch, uint32_t domid);
int xc_domain_hvm_getcontext_partial(xc_interface *xch, uint32_t domid, uint16_t typecode, uint16_t instance,
                                     void *ctxt_buf, uint32_t size);
int xc_evtchn_status(xc_interface *xch, xc_evtchn_status_t *status);
int xc_vcpu_getinfo(xc_interface *xch, uint32_t domid, uint32_t vcpu, xc_vcpuinfo_t *info);
int xc_domain_setmaxmem(xc_interface *xch, uint32_t domid, uint64_t max_memkb);
int xc_domain_maximum_gpfn(xc_interface *xch, uint32_t domid, xen_pfn_t *gpfns);
int xc_domain_populate_physmap_exact(xc_interface *xch, uint32_t domid, unsigned long nr_extents,
                                     unsigned int extent_order, unsigned int mem_flags, xen_pfn_t *extent_start);
int xc_domain_decrease_reservation_exact(xc_interface *xch, uint32_t domid, unsigned long nr_extents,
                                         unsigned int extent_order, xen_pfn_t *extent_start);
int xc_domain_debug_control(xc_interface *xch, uint32_t domid, uint32_t sop, uint32_t vcpu);
int xc_hvm_param_get(xc_interface *xch, uint32_t dom, uint32_t param, uint64_t *value);
int xc_get_paging_mempool_size(xc_interface *xch, uint32_t domid, uint64_t *size);
int xc_set_paging_mempool_size(xc_interface *xch, uint32_t domid, uint64_t size);
int xc_hvm_inject_trap(xc_interface *xch, uint32_t domid, int vcpu, uint8_t vector, uint8_t type,
                       uint32_t error_code, uint8_t insn_len, uint64_t cr2);

int xc_altp2m_get_domain_state(xc_interface *xch, uint32_t dom, _Bool *state);
int xc_altp2m_set_domain_state(xc_interface *xch, uint32_t dom, _Bool state);
int xc_altp2m_create_view(xc_interface *xch, uint32_t domid, int default_access, uint16_t *view_id);
int xc_altp2m_destroy_view(xc_interface *xch, uint32_t domid, uint16_t view_id);
int xc_altp2m_switch_to_view(xc_interface *xch, uint32_t domid, uint16_t view_id);
int xc_altp2m_set_mem_access(xc_interface *xch, uint32_t domid, uint16_t view_id, xen_pfn_t gfn, int access);
int xc_altp2m_set_mem_access_multi(xc_interface *xch, uint32_t domid, uint16_t view_id, uint8_t *access,
                                   uint64_t *gfns, uint32_t nr);
int xc_altp2m_get_mem_access(xc_interface *xch, uint32_t domid, uint16_t view_id, xen_pfn_t gfn, int *access);
int xc_altp2m_change_gfn(xc_interface *xch, uint32_t domid, uint16_t view_id, xen_pfn_t old_gfn, xen_pfn_t new_gfn);
int xc_altp2m_get_vcpu_p2m_idx(xc_interface *xch, uint32_t domid, uint32_t vcpuid, uint16_t *p2midx);
int xc_set_mem_access(xc_interface *xch, uint32_t domain_id, int access, uint64_t first_pfn, uint32_t nr);
int xc_set_mem_access_multi(xc_interface *xch, uint32_t domain_id, uint8_t *access, uint64_t *pages, uint32_t nr);
int xc_get_mem_access(xc_interface *xch, uint32_t domain_id, uint64_t pfn, int *access);

int xc_vm_event_get_version(xc_interface *xch);
void *xc_monitor_enable(xc_interface *xch, uint32_t domain_id, uint32_t *port);
int xc_monitor_disable(xc_interface *xch, uint32_t domain_id);
int xc_monitor_resume(xc_interface *xch, uint32_t domain_id);
int xc_monitor_get_capabilities(xc_interface *xch, uint32_t domain_id, uint32_t *capabilities);
int xc_monitor_write_ctrlreg(xc_interface *xch, uint32_t domain_id, uint16_t index, _Bool enable, _Bool sync,
                             uint64_t bitmask, _Bool onchangeonly);
int xc_monitor_mov_to_msr(xc_interface *xch, uint32_t domain_id, uint32_t msr, _Bool enable, _Bool onchangeonly);
int xc_monitor_singlestep(xc_interface *xch, uint32_t domain_id, _Bool enable);
int xc_monitor_software_breakpoint(xc_interface *xch, uint32_t domain_id, _Bool enable);
int xc_monitor_guest_request(xc_interface *xch, uint32_t domain_id, _Bool enable, _Bool sync, _Bool allow_userspace);
int xc_monitor_inguest_pagefault(xc_interface *xch, uint32_t domain_id, _Bool disable);
int xc_monitor_debug_exceptions(xc_interface *xch, uint32_t domain_id, _Bool enable, _Bool sync);
int xc_monitor_cpuid(xc_interface *xch, uint32_t domain_id, _Bool enable);
int xc_monitor_emul_unimplemented(xc_interface *xch, uint32_t domain_id, _Bool enable);

xenevtchn_handle *xenevtchn_open(xentoollog_logger *logger, unsigned int flags);
int xenevtchn_close(xenevtchn_handle *xce);
int xenevtchn_fd(xenevtchn_handle *xce);
int xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, uint32_t remote_port);
int xenevtchn_unbind(xenevtchn_handle *xce, uint32_t port);
int xenevtchn_notify(xenevtchn_handle *xce, uint32_t port);
int xenevtchn_pending(xenevtchn_handle *xce);
int xenevtchn_unmask(xenevtchn_handle *xce, uint32_t port);

xenforeignmemory_handle *xenforeignmemory_open(xentoollog_logger *logger, unsigned open_flags);
int xenforeignmemory_close(xenforeignmemory_handle *fmem);
void *xenforeignmemory_map2(xenforeignmemory_handle *fmem, uint32_t dom, void *addr, int prot, int flags,
                            size_t pages, const xen_pfn_t *arr, int *err);

xs_handle *xs_open(unsigned long flags);
void xs_close(xs_handle *xsh);
char **xs_directory(xs_handle *h, uint32_t t, const char *path, unsigned int *num);
void *xs_read(xs_handle *h, uint32_t t, const char *path, unsigned int *len);
_Bool xs_write(xs_handle *h, uint32_t t, const char *path, const void *data, unsigned int len);
_Bool xs_rm(xs_handle *h, uint32_t t, const char *path);

xentoollog_logger *xtl_createlogger_stdiostream(FILE *f, int min_level, unsigned flags);
void xtl_logger_destroy(xentoollog_logger *logger);

extern FILE *stderr;
void free(void *ptr);
void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset);
"""

_HEADER = """# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: E501
# fmt: off
# mypy: ignore-errors
"""
TARGET = Path(__file__).with_name("_ffi.py")


def generate() -> str:
    """Return the text of ``_ffi.py``: cffi's tables for `CDEF`."""
    import tempfile

    import cffi

    maker = cffi.FFI()
    maker.cdef(CDEF)
    maker.set_source("drakmet.pyxen._ffi", None)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "_ffi.py"
        maker.emit_python_code(str(made))
        return _HEADER + made.read_text(encoding="utf-8")


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
