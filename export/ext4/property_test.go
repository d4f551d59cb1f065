package ext4

import (
	"flag"
	"os"
	"path"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// TestRandomTrees: whatever the tree, e2fsck is silent, a mount shows it in
// every field, and the image can be filled, emptied and grown.
// ROOTFS_PROPERTY_CHECKS sets the number of trees.
func TestRandomTrees(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	checks := os.Getenv("ROOTFS_PROPERTY_CHECKS")
	if checks == "" {
		checks = "25"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	rapid.Check(t, func(t *rapid.T) { randomTree(t, folder) })
}

// randomTree makes an image of a tree in a folder of its own, checks it and
// uses it.
func randomTree(t *rapid.T, folder string) {
	dir, err := os.MkdirTemp(folder, "")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	tr := drawTree(t, dir)
	image := writeImage(t, dir, tr.mustPlan(Options{
		// The kernel keeps up to 16 MiB for itself (ext4_resv_clusters).
		Free:      rapid.Int64Range(20<<20, 40<<20).Draw(t, "free"),
		NoJournal: rapid.Bool().Draw(t, "no journal"),
		Label:     strings.Repeat("l", rapid.IntRange(0, labelSize).Draw(t, "label")),
		Created:   created,
	}))
	fsck(t, image)
	use(t, image, tr)
}

// around draws a number at, just below or just above one of some edges.
func around(t *rapid.T, label string, edges ...int64) int64 {
	n := rapid.SampledFrom(edges).Draw(t, label) + rapid.Int64Range(-1, 1).Draw(t, label)
	return max(n, 0)
}

func drawTree(t *rapid.T, folder string) *tree {
	tr := newTree(t, folder)
	dirs := []string{"."}
	var files []string
	for range rapid.IntRange(0, 60).Draw(t, "entries") {
		name := path.Join(rapid.SampledFrom(dirs).Draw(t, "in"), drawName(t))
		if tr.entries[name] != nil || name == lostFound {
			continue
		}
		e := drawEntry(t, tr, name, files)
		if e == nil {
			continue // a link
		}
		if e.IsDir() {
			dirs = append(dirs, name)
		} else {
			files = append(files, name)
		}
		drawFields(t, e)
	}
	return tr
}

func drawName(t *rapid.T) string {
	b := rapid.SliceOfN(rapid.Byte(), 1, int(around(t, "name length", 2, 8, 254))).Draw(t, "name")
	for i, c := range b {
		if c == 0 || c == '/' {
			b[i] = 'x'
		}
	}
	if name := string(b); name != "." && name != ".." {
		return name
	}
	return "dots"
}

// drawEntry adds an entry of some kind; nil if it is a link.
func drawEntry(t *rapid.T, tr *tree, name string, files []string) *overlay.Entry {
	number := func(label string, most uint32) uint32 { return rapid.Uint32Range(0, most).Draw(t, label) }
	switch rapid.IntRange(0, 8).Draw(t, "kind") {
	case 0, 1:
		return tr.dir(name)
	case 2, 3:
		size := around(t, "size", 0, 4096, 8192, 60, 100_000)
		if rapid.IntRange(0, 150).Draw(t, "large") == 0 {
			size = around(t, "group", blocksPerGroup*blockSize, 120<<20)
		}
		return tr.file(name, strings.Repeat("0123456789", int(size/10+1))[:size])
	case 4:
		return drawSparse(t, tr, name)
	case 5:
		return tr.symlink(name, strings.Repeat("t", max(1, int(around(t, "target", 1, 59, 4094)))))
	case 6:
		kind := rapid.SampledFrom([]uint32{unix.S_IFCHR, unix.S_IFBLK}).Draw(t, "device")
		return tr.device(name, kind, number("major", 4095), number("minor", 1<<20-1))
	case 7:
		kind := rapid.SampledFrom([]uint32{unix.S_IFIFO, unix.S_IFSOCK}).Draw(t, "special")
		return tr.add(overlay.Entry{Path: name, Mode: kind})
	}
	if len(files) == 0 {
		return tr.file(name, "")
	}
	tr.link(rapid.SampledFrom(files).Draw(t, "link"), name)
	return nil
}

func drawSparse(t *rapid.T, tr *tree, name string) *overlay.Entry {
	n := int(around(t, "extents", 1, 4, 340, 1360))
	if rapid.IntRange(0, 3).Draw(t, "many") > 0 {
		n = min(n, 6)
	}
	chunks := make([]chunk, n)
	at := int64(0)
	for i := range chunks {
		at += around(t, "gap", 1, 4096, 8192, 1<<20)
		chunks[i] = chunk{at, "some data"}
		at += 9
	}
	size := at + around(t, "end", 1, 4096, 1<<30)
	if rapid.IntRange(0, 9).Draw(t, "huge") == 0 {
		size = 1 << 40
	}
	return tr.sparse(name, size, chunks...)
}

// drawFields draws what entries of all kinds have.
func drawFields(t *rapid.T, e *overlay.Entry) {
	e.Mode = e.Mode&unix.S_IFMT | rapid.Uint32Range(0, 0o7777).Draw(t, "mode")
	id := rapid.OneOf(rapid.Uint32Range(0, 70_000), rapid.Uint32Range(0, 1<<32-2))
	e.UID, e.GID = id.Draw(t, "uid"), id.Draw(t, "gid")
	e.Mtime = overlay.Time{
		Sec: rapid.OneOf(
			// Of 68 years from 2310 on, e2fsck says that they are likely
			// times before 1970 of an old kernel (bug 52051).
			rapid.Int64Range(minTime, 3<<32-1<<31-1),
			rapid.SampledFrom([]int64{minTime, -1, 0, 1<<31 - 1, 1 << 31, 1 << 32, maxTime}),
		).Draw(t, "seconds"),
		Nsec: rapid.Uint32Range(0, 999_999_999).Draw(t, "nanoseconds"),
	}
	e.Xattrs = drawXattrs(t, e)
}

func drawXattrs(t *rapid.T, e *overlay.Entry) []overlay.Xattr {
	prefixes := []string{"trusted.", "security."}
	if e.IsRegular() || e.IsDir() {
		prefixes = append(prefixes, "user.")
	}
	room := xattrBlockSpace - xattrListEnd
	var xattrs []overlay.Xattr
	seen := make(map[string]bool)
	add := func(name string, value []byte) {
		room -= pad4(xattrEntryHeader+len(name)) + pad4(len(value))
		if room >= 0 && !seen[name] {
			xattrs = append(xattrs, overlay.Xattr{Name: name, Value: value})
			seen[name] = true
		}
	}
	for range max(0, rapid.IntRange(-4, 5).Draw(t, "xattrs")) {
		name := rapid.SampledFrom(prefixes).Draw(t, "namespace") +
			rapid.StringMatching(`[a-z0-9.]{1,40}`).Draw(t, "xattr")
		add(name, rapid.SliceOfN(rapid.Byte(), 0, int(around(t, "value", 4, 64, 2000))).Draw(t, "value"))
	}
	if e.IsRegular() && rapid.IntRange(0, 4).Draw(t, "acl") == 0 {
		add("system.posix_acl_access", acl([3]uint32{1, 6, noID}, [3]uint32{2, 4, 70_000},
			[3]uint32{4, 4, noID}, [3]uint32{16, 6, noID}, [3]uint32{32, 4, noID}))
	}
	return xattrs
}
