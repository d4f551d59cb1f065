#!/bin/sh
# Makes the sample project anew in DIR, its packages built. CACHE keeps the
# busybox that goes into it.
#
#	project.sh DIR CACHE
set -eu
dir=$1 cache=$2
here=$(cd "$(dirname "$0")" && pwd)

"$here/unpack-deb.sh" busybox-static "$cache/busybox-static"
busybox=$(find "$cache/busybox-static" -path '*/bin/busybox' | head -n 1)
rm -rf "$dir"
mkdir -p "$dir"
cp -a "$here/../sample/." "$dir"
make -s -C "$dir" packages BUSYBOX="$busybox"
