#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest, in a mount namespace of its own whose root becomes the work's: strace tells what the work does.
set -e
rm -rf /root/truth.told
mkdir -p /root/truth /root/truth.told
mount -t tmpfs none /root/truth
cd /root/truth
tar xf /root/truth.tar
mkdir -p old
mount -t proc none proc
mount --rbind /dev dev
mount -t tmpfs none tmp
mount --bind /root/truth.told truth
pivot_root . old
PATH=/bin
export PATH
unset LANG TERM
exec sh -c '
    umount -l /old
    CALLS=%process,%network,open,openat,openat2,creat,unlink,unlinkat,rename,rmdir,chmod,fchmodat,chown,fchownat
    strace -ff --seccomp-bpf -xx -X raw -v -y -s 200000 -e trace=$CALLS -o /truth/t sh /bin/work.sh > /dev/null 2>&1 < /dev/null || true'
