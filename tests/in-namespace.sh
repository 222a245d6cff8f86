#!/bin/sh
# What cargo runs programs through (.cargo/config.toml). The suite and the benches get a network namespace of their own,
# in which every address of 10.200.0.0/16 is local: fixed ports never clash, and Kubernetes accepts the addresses, as it
# does not loopback ones. Their mounts are private too, and /dev/shm is memory of theirs that vanishes with them.
#
# It has to happen before the program starts: only a process of one thread can enter a user namespace, and a test
# harness has more by the time that a test of ours runs. Other programs are run as they are.
#
# tests/src/netns.rs reads POINTSMAN_NETNS: "inside", or why not. Tests that need no cluster run without.

# A test that fails says why in its error; a backtrace of each layer of anyhow would only bury that.
export RUST_LIB_BACKTRACE=0

case "${1##*/}" in
suite-* | bench | cluster-bench) ;;
*) exec "$@" ;;
esac

enter='ip link set lo up && ip route add local 10.200.0.0/16 dev lo && mount -t tmpfs -o mode=1777 tmpfs /dev/shm &&
printf "search cluster.local\nnameserver 10.200.0.53\n" >/dev/shm/resolv.conf && mount --bind /dev/shm/resolv.conf /etc/resolv.conf'
why=
# As root, and as anybody who may have a user namespace.
for namespaces in -nm -Urnm; do
	if said=$(unshare "$namespaces" sh -c "$enter" 2>&1); then
		# Nothing beyond the namespace is in reach, so cargo, where a test calls it, need not try.
		export POINTSMAN_NETNS=inside CARGO_NET_OFFLINE=true
		exec unshare "$namespaces" sh -c "$enter && exec \"\$@\"" sh "$@"
	fi
	why="$why unshare $namespaces: $said;"
done
export POINTSMAN_NETNS="${why# }"
exec "$@"
