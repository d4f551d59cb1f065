#!/bin/sh
# Makes the sample project anew in DIR, as a checkout of it would be. CACHE keeps
# the busybox that goes into it.
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
cp "$busybox" "$dir/user/apps/busybox/busybox"
