package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseMountinfo(t *testing.T) {
	const text = `21 1 254:0 / / rw,relatime - ext4 /dev/root rw
40 21 0:34 / /a rw,nosuid,nodev shared:7 master:3 - fuse.rootfs /home/p rw,user_id=0
41 21 0:35 / /b rw - tmpfs tmpfs rw
42 41 0:36 / /b rw - fuse.rootfs /home/my\040project rw
43 21 0:37 / /with\040space\134 rw - tmpfs none rw
44 21 0:38 / /全角　 rw - fuse.rootfs /home/p 　 rw
a line of nonsense
`
	for dir, want := range map[string]string{
		"/":              "ext4 /dev/root",
		"/a":             "fuse.rootfs /home/p",
		"/b":             "fuse.rootfs /home/my project", // the topmost of two
		`/with space\`:   "tmpfs none",
		"/全角\u3000":      "fuse.rootfs /home/p\u00a0\u3000", // the kernel escapes only what is a space to it
		"/a/b":           "none there",
		"/with":          "none there",
		`/with\040space`: "none there",
	} {
		m, err := parseMountinfo(strings.NewReader(text), dir)
		if err != nil {
			t.Fatal(err)
		}
		got := "none there"
		if m != nil {
			got = fmt.Sprint(m.Type, " ", m.Source)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}
