#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# dom0's only init: what Xen's tools need, the network to the outside, the agent. Says "lab: ..." on the console as it goes.
. /lab/environment
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
ln -s /proc/self/fd /dev/fd
mkdir -p /run/lock /run/xen /run/xenstored /run/drakmet/ro /run/drakmet/up /run/drakmet/work
for m in $(cat /lab/modules/order); do insmod /lab/modules/$m.ko; done
mount -t xenfs xenfs /proc/xen
mount -t squashfs -o ro /dev/lab-drakmet /run/drakmet/ro
mount -t overlay -o lowerdir=/run/drakmet/ro,upperdir=/run/drakmet/up,workdir=/run/drakmet/work overlay /opt/drakmet
mount -t squashfs -o ro /dev/lab-guest /lab/guest
hostname dom0
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
# What guests send to anywhere else comes back as "host unreachable", at once.
ip route add unreachable default
echo 1 >/proc/sys/net/ipv4/ip_forward
echo "lab: xenstored"
xenstored --pid-file /run/xenstored.pid
i=0
while ! xenstore-read / >/dev/null 2>&1 && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
xen-init-dom0
mkdir -p /var/log/xen/console
xenconsoled --pid-file=/run/xenconsoled.pid --log=guest --log-dir=/var/log/xen/console
ulimit -c 0
for word in $(cat /proc/cmdline); do
    case $word in drakmet.token=*) token=${word#drakmet.token=} ;; esac
done
echo "lab: agent"
(cd /root && exec python3 -S /lab/agent.py 10.0.2.15 "$token") &
echo "lab: dom0 ready"
while :; do wait; sleep 100000; done
