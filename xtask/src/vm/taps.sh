# Runs as root in a network namespace of its own: TAP devices and a bridge between them, then QEMU.
set -eu
sysctl=/proc/sys/net/ipv6/conf
echo 1 >"$sysctl/default/disable_ipv6"
ip link add name hub type bridge stp_state 0 forward_delay 0 mcast_snooping 0
ip tuntap add dev near mode tap multi_queue
ip tuntap add dev far mode tap
for link in near far; do
    ip link set dev "$link" mtu 1600 master hub up
done
ip link set dev hub mtu 1600 up
exec "$@"
