#!/bin/busybox sh
# The guest's first process: brings the machine up, then a shell on the second serial port does what the tests send.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox --install -s /bin 2>/dev/null

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/lock/iscsi /var /dev/pts /dev/shm
ln -s /run /var/run
ln -s /run/lock /var/lock
ln -s /proc/mounts /etc/mtab

while read -r module; do
    insmod "$module" || echo "init: no $module"
done </etc/modules

# The host's loopback is 10.0.2.2. With this machine's own loopback down, 127.0.0.1 can be the host's, too: a portal that
# SendTargets names is reached under the name that it has there.
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1 net.ipv4.conf.all.rp_filter=0
ip route add default via 10.0.2.2
ip route add 127.0.0.0/8 via 10.0.2.2
# iscsid asks for buffers of 512 KiB. QEMU's network waits 5 s after it has met a closed window, so let none close.
sysctl -qw net.core.rmem_max=16777216 net.core.wmem_max=16777216
sysctl -qw net.ipv4.tcp_rmem="4096 4194304 16777216" net.ipv4.tcp_wmem="4096 1048576 16777216"

/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add --subsystem-match=block
iscsid || echo "init: no iscsid"

stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 </dev/null 2>/dev/console
echo "@@ready"
# What the tests send is a script without end; as input instead of a file it would make the shell ask for each line.
sh /dev/ttyS1
echo "@@lost"
poweroff -f
