# SPDX-License-Identifier: GPL-2.0-or-later
export PATH=/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/usr/lib/xen-@XEN@/bin:/lab/busybox
export HOME=/root LANG=C.UTF-8 TERM=dumb PYTHONSAFEPATH=1
