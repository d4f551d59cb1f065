package main

import (
	"strings"
	"testing"
)

// A command line as people type it, and what the flag library is given.
func TestPermute(t *testing.T) {
	for _, tc := range []struct{ typed, given string }{
		{"rootfs", "rootfs"},
		{"rootfs --help", "rootfs --help"},
		{"rootfs mount -f mnt", "rootfs mount -f -- mnt"},
		{"rootfs mount mnt -f", "rootfs mount -f -- mnt"},
		{"rootfs mount mnt -o debug,allow_other", "rootfs mount -o debug,allow_other -- mnt"},
		{"rootfs mount -o=debug mnt", "rootfs mount -o=debug -- mnt"},
		{"rootfs mount -- -f", "rootfs mount -- -f"},
		{"rootfs -C dir status --json", "rootfs -C dir --json status --"},
		{"rootfs status -C dir", "rootfs -C dir status --"},
		{"rootfs umount mnt -C", "rootfs -C"},
		{"rootfs -q mount mnt -f -o", "rootfs -q mount -f -o"},
		{"rootfs export --img=a --tar b -n", "rootfs export --img=a --tar b -n --"},
		{"rootfs mount --wrong mnt", "rootfs mount --wrong -- mnt"},
		{"rootfs wrong -f", "rootfs wrong -f"},
		{"rootfs mount -", "rootfs mount -- -"},
	} {
		got := strings.Join(permute(newApp(streams{}), strings.Fields(tc.typed)), " ")
		if got != tc.given {
			t.Errorf("%q:\n got %q\nwant %q", tc.typed, got, tc.given)
		}
	}
}
