#!/bin/sh
# private-root.sh ROOT CERTS PROGRAM ARGUMENTS: runs a program that sees CERTS as /certs, a path that Envoy Gateway has
# no option for. The machine's own root is not touched: the program gets another, put together in the empty folder ROOT
# from all folders of the machine's and that one.
#
# It needs a mount namespace of its own, `unshare -m`, and becomes the program, which keeps the process id.
set -e
root=$1 certs=$2
shift 2
mount -t tmpfs tmpfs "$root"
for entry in /*; do
	if [ "$entry" = /certs ]; then
		continue
	elif [ -L "$entry" ]; then
		cp -P "$entry" "$root$entry"
	elif [ -d "$entry" ]; then
		mkdir "$root$entry"
		mount --rbind "$entry" "$root$entry"
	fi
done
mkdir "$root/certs"
mount --bind "$certs" "$root/certs"
exec chroot "$root" "$@"
