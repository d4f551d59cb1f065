package ext4

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

var created = overlay.Time{Sec: 1_700_000_000}

// acl builds an ACL as getxattr returns it: pairs of tag, permissions, id.
func acl(entries ...[3]uint32) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		b = append(b, byte(e[0]), byte(e[0]>>8), byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return b
}

const noID = 0xffffffff

// everything makes a tree with an entry of each kind.
func everything(t testing.TB) *tree {
	tr := newTree(t, t.TempDir())
	tr.dir("bin").Mode = unix.S_IFDIR | 0o1777
	for _, size := range []int{0, 1, 59, 60, 4095, 4096, 4097, 1 << 20} {
		tr.file(fmt.Sprintf("bin/file%d", size), strings.Repeat("x", size))
	}
	e := tr.file("bin/su", "#!")
	e.Mode, e.UID, e.GID = unix.S_IFREG|0o6755, 70_000, 4_000_000_000
	tr.link("bin/su", "bin/su2")
	tr.dir("dev")
	tr.link("bin/su", "dev/su3")
	tr.device("dev/null", unix.S_IFCHR, 1, 3)
	tr.device("dev/big", unix.S_IFCHR, 4095, 1<<20-1)
	tr.device("dev/blk", unix.S_IFBLK, 259, 300)
	tr.device("dev/edge", unix.S_IFBLK, 255, 256)
	tr.link("dev/null", "dev/null2")
	tr.add(overlay.Entry{Path: "dev/fifo", Mode: unix.S_IFIFO | 0o620})
	tr.add(overlay.Entry{Path: "dev/sock", Mode: unix.S_IFSOCK | 0o777})
	for _, n := range []int{1, 59, 60, 61, 4095} {
		tr.symlink(fmt.Sprintf("link%d", n), strings.Repeat("t", n))
	}
	tr.link("link60", "link60b")
	for i, sec := range []int64{-1 << 31, -1, 0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 33, maxTime} {
		tr.file(fmt.Sprintf("time%d", i), "").Mtime = overlay.Time{Sec: sec, Nsec: 999_999_999}
	}
	for n := 248; n <= maxName; n++ {
		tr.file(strings.Repeat("n", n), "long")
	}
	tr.file("\xff\xfe\n\x01 'name", "bytes")
	tr.sparse("holes", 1<<30, chunk{0, "a"}, chunk{1 << 20, strings.Repeat("b", 9000)}, chunk{1<<30 - 1, "c"})
	tr.sparse("hole", 1<<40)
	addAttributes(tr)
	return tr
}

func addAttributes(tr *tree) {
	tr.dir("attr")
	tr.file("attr/cap", "x").Xattrs = []overlay.Xattr{
		{Name: "security.capability", Value: []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
	}
	tr.file("attr/many", "").Xattrs = []overlay.Xattr{
		{Name: "user.zz", Value: []byte("z")},
		{Name: "user.b", Value: []byte("12345")},
		{Name: "user.aaa", Value: nil},
		{Name: "user.\xff\x80", Value: []byte("\xff\x00\xff")},
		{Name: "trusted.x", Value: []byte("four")},
		{Name: "security.other", Value: make([]byte, 100)},
	}
	// A header, an entry with its name, the end, and the value: one block.
	tr.file("attr/full", "").Xattrs = []overlay.Xattr{{Name: "user.full", Value: make([]byte, xattrBlockSpace-4-16-4)}}
	e := tr.file("attr/acl", "x")
	e.Mode = unix.S_IFREG | 0o664
	e.Xattrs = []overlay.Xattr{{
		Name:  "system.posix_acl_access",
		Value: acl([3]uint32{1, 6, noID}, [3]uint32{2, 4, 70_000}, [3]uint32{4, 4, noID}, [3]uint32{8, 6, 5}, [3]uint32{16, 6, noID}, [3]uint32{32, 4, noID}),
	}}
	tr.dir("attr/dir").Xattrs = []overlay.Xattr{{
		Name:  "system.posix_acl_default",
		Value: acl([3]uint32{1, 7, noID}, [3]uint32{4, 5, noID}, [3]uint32{32, 5, noID}),
	}}
	tr.symlink("attr/short", "target").Xattrs = []overlay.Xattr{{Name: "trusted.x", Value: []byte("in the inode")}}
	tr.symlink("attr/longer", strings.Repeat("t", 200)).Xattrs = []overlay.Xattr{{Name: "trusted.x", Value: []byte("in a block")}}
	tr.symlink("attr/shortlong", "target").Xattrs = []overlay.Xattr{{Name: "trusted.x", Value: make([]byte, 500)}}
	tr.device("attr/dev", unix.S_IFCHR, 1, 3).Xattrs = []overlay.Xattr{{Name: "trusted.x", Value: []byte("1")}}
}

// TestEveryField writes a tree with everything, and has e2fsck and the kernel
// judge it, at automatic and at given size, with and without journal.
func TestEveryField(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	for _, opts := range []Options{
		{},
		{Size: 16 << 20},
		{Size: 128 << 20},
		{Size: 128<<20 + 4097},
		{Size: 128 << 20, NoJournal: true},
		{Size: 4 << 20},
		{Size: 3 << 30, NoJournal: true},
	} {
		t.Run(fmt.Sprintf("size=%d,nojournal=%t", opts.Size, opts.NoJournal), func(t *testing.T) {
			opts.Created = created
			tr := everything(t)
			image := writeImage(t, t.TempDir(), tr.mustPlan(opts))
			fsck(t, image)
			mounted(t, image, "ro", func(root string) { same(t, mountLines(t, root, false), tr.lines()) })
			mounted(t, image, "rw", func(root string) { same(t, mountLines(t, root, false), tr.lines()) })
			fsck(t, image)
		})
	}
}
