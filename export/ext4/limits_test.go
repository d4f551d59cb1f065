package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// TestComparatorFails shows that the comparison of trees sees each field.
func TestComparatorFails(t *testing.T) {
	base := everything(t).lines()
	for name, change := range map[string]func(tr *tree){
		"mode":    func(tr *tree) { tr.entries["bin/su"].Mode ^= 0o1 },
		"owner":   func(tr *tree) { tr.entries["bin/su"].UID++ },
		"group":   func(tr *tree) { tr.entries["bin/su"].GID++ },
		"time":    func(tr *tree) { tr.entries["link59"].Mtime.Nsec++ },
		"target":  func(tr *tree) { tr.entries["link59"].Target += "x" },
		"device":  func(tr *tree) { tr.entries["dev/null"].Rdev++ },
		"xattr":   func(tr *tree) { tr.entries["attr/cap"].Xattrs[0].Value = []byte{1} },
		"content": func(tr *tree) { tr.file("bin/file4096", strings.Repeat("y", 4096)) },
		"size":    func(tr *tree) { tr.file("bin/file4096", strings.Repeat("x", 4095)) },
		"hole":    func(tr *tree) { tr.sparse("hole", 1<<40, chunk{4096, "\x00"}) },
		"link":    func(tr *tree) { tr.link("bin/file1", "z") },
		"missing": func(tr *tree) { delete(tr.entries, "attr/dev") },
	} {
		tr := everything(t)
		change(tr)
		failed := false
		same(recorder{t, &failed}, tr.lines(), base)
		if !failed {
			t.Errorf("a different %s is not seen", name)
		}
	}
}

// recorder notes that a helper has failed.
type recorder struct {
	tb
	failed *bool
}

func (r recorder) Fatalf(string, ...any) { *r.failed = true }

// TestRefused lists what ext4 can't hold; the message names the path.
func TestRefused(t *testing.T) {
	long := strings.Repeat("n", maxName+1)
	reg := uint32(unix.S_IFREG | 0o644)
	for _, c := range []struct {
		name  string
		entry overlay.Entry
		want  string
	}{
		{"long name", overlay.Entry{Path: "d/" + long, Mode: reg}, long + ": name has 256 bytes"},
		{"no directory", overlay.Entry{Path: "nowhere/f", Mode: reg}, "nowhere/f: its directory"},
		{"below a file", overlay.Entry{Path: "f/f", Mode: reg}, "f/f: its directory"},
		{"out of order", overlay.Entry{Path: "c", Mode: reg}, `c: added after "f"`},
		{"twice", overlay.Entry{Path: "f", Mode: reg}, `f: added after "f"`},
		{"absolute", overlay.Entry{Path: "/x", Mode: reg}, "/x: "},
		{"empty", overlay.Entry{Mode: reg}, ": not the path"},
		{"dots", overlay.Entry{Path: "d/..", Mode: reg}, "d/..: not the path"},
		{"upwards", overlay.Entry{Path: "../x", Mode: reg}, "../x: its directory"},
		{"zero byte", overlay.Entry{Path: "x\x00y", Mode: reg}, "not the path"},
		{"second root", overlay.Entry{Path: ".", Mode: unix.S_IFDIR}, "the root is one"},
		{"no type", overlay.Entry{Path: "x", Mode: 0o644}, "x: unknown file type"},
		{"huge file", overlay.Entry{Path: "x", Mode: reg, Size: 16 << 40}, "x: 17592186044416 bytes"},
		{"negative file", overlay.Entry{Path: "x", Mode: reg, Size: -1}, "x: -1 bytes"},
		{"no content", overlay.Entry{Path: "x", Mode: reg, Size: 1}, "without content"},
		{"no target", overlay.Entry{Path: "x", Mode: unix.S_IFLNK}, "x: symlink target of 0"},
		{"long target", overlay.Entry{Path: "x", Mode: unix.S_IFLNK, Target: strings.Repeat("t", 4096)}, "x: symlink target of 4096"},
		{"device", overlay.Entry{Path: "x", Mode: unix.S_IFCHR, Rdev: unix.Mkdev(4096, 0)}, "x: device number 4096:0"},
		{"lost+found", overlay.Entry{Path: "lost+found", Mode: reg}, "has to be a directory"},
		{"namespace", overlay.Entry{Path: "x", Mode: reg, Xattrs: []overlay.Xattr{{Name: "btrfs.x"}}}, `x: attribute "btrfs.x"`},
		{"attributes", overlay.Entry{Path: "x", Mode: reg, Xattrs: []overlay.Xattr{{Name: "user.x", Value: make([]byte, 4076)}}}, "x: extended attributes of 4100"},
		{"attribute twice", overlay.Entry{Path: "x", Mode: reg, Xattrs: []overlay.Xattr{{Name: "user.x"}, {Name: "user.x"}}}, "given twice"},
		{"ACL", overlay.Entry{Path: "x", Mode: reg, Xattrs: []overlay.Xattr{{Name: "system.posix_acl_access", Value: []byte{2, 0, 0, 0, 1}}}}, "not an ACL"},
		{"ACL tag", overlay.Entry{Path: "x", Mode: reg, Xattrs: []overlay.Xattr{{Name: "system.posix_acl_access", Value: acl([3]uint32{3, 0, 0})}}}, "unknown tag 0x3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := New(Options{})
			for _, e := range []overlay.Entry{
				{Path: ".", Mode: unix.S_IFDIR | 0o755},
				{Path: "d", Mode: unix.S_IFDIR | 0o755},
				{Path: "f", Mode: reg},
			} {
				if err == nil {
					err = p.Add(&e)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Add(&c.entry); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestTooSmall: the error tells a size, and that size is enough.
func TestTooSmall(t *testing.T) {
	need(t, "fsck")
	for _, size := range []int64{1, 4096, 1 << 20, 16 << 20} {
		tr := newTree(t, t.TempDir())
		tr.file("file", strings.Repeat("x", 20<<20))
		_, err := tr.plan(Options{Size: size})
		if err == nil {
			t.Fatalf("20 MiB fit %d bytes", size)
		}
		_, after, _ := strings.Cut(err.Error(), "it needs ")
		word, _, _ := strings.Cut(after, " ")
		needed, perr := strconv.ParseInt(word, 10, 64)
		if perr != nil {
			t.Fatalf("%v tells no size", err)
		}
		fsck(t, writeImage(t, t.TempDir(), tr.mustPlan(Options{Size: needed, Created: created})))
	}
}

// TestNeededSize: the size that the error tells is the next that is enough, be
// it with a smaller journal than is usual.
func TestNeededSize(t *testing.T) {
	for _, c := range []struct{ content, size, want int64 }{
		{0, 4096, 1 << 20},
		{5 << 20, 1 << 20, 6 << 20},
		{5 << 20, 8 << 20, 10 << 20}, // from 8 MiB on, there is a journal
		{128 << 20, 64 << 20, 141 << 20},
	} {
		tr := newTree(t, t.TempDir())
		tr.file("file", strings.Repeat("x", int(c.content)))
		_, err := tr.plan(Options{Size: c.size})
		var size *plan.SizeError
		if !errors.As(err, &size) || size.Need != c.want {
			t.Errorf("%d bytes in %d: %v, want %d", c.content, c.size, err, c.want)
			continue
		}
		tr.mustPlan(Options{Size: size.Need})
		if size.Need-1<<20 > c.size {
			if _, err := tr.plan(Options{Size: size.Need - 1<<20}); err == nil {
				t.Errorf("%d bytes fit %d, too", c.content, size.Need-1<<20)
			}
		}
	}
}

// TestSmallerJournal: what fits an image fits one that is a little larger,
// though that should have a larger journal.
func TestSmallerJournal(t *testing.T) {
	need(t, "fsck")
	tr := newTree(t, t.TempDir())
	tr.file("file", strings.Repeat("x", 113<<20))
	for _, c := range []struct {
		size int64
		want string
	}{{125 << 20, "4096k"}, {131 << 20, "8M"}, {160 << 20, "16M"}} {
		image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Size: c.size, Created: created}))
		fsck(t, image)
		if got := superField(t, image, "Total journal size"); got != c.want {
			t.Errorf("%d bytes: a journal of %s, want %s", c.size, got, c.want)
		}
	}
}

// TestManyLinks: the last link that ext4 takes, and one more.
func TestManyLinks(t *testing.T) {
	need(t, "fsck")
	tr := newTree(t, t.TempDir())
	first := tr.file("first", "x")
	first.Nlink = maxLinks
	for i := range maxLinks - 1 {
		e := *first
		e.Path = fmt.Sprintf("link%05d", i)
		tr.add(e)
	}
	fsck(t, writeImage(t, t.TempDir(), tr.mustPlan(Options{Created: created})))
	for _, e := range tr.entries {
		if e.IsRegular() {
			e.Nlink++
		}
	}
	e := *first
	e.Path = "one more"
	tr.add(e)
	if _, err := tr.plan(Options{}); err == nil || !strings.Contains(err.Error(), "one more: more than the 65000 links") {
		t.Errorf("got %v", err)
	}
}

// TestManyEntries: directories with more subdirectories than a link count
// holds, and with 100,000 files.
func TestManyEntries(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	tr := newTree(t, t.TempDir())
	tr.dir("a")
	for i := range maxLinks + 10 {
		tr.dir(fmt.Sprintf("a/%d", i))
	}
	tr.dir("b")
	for i := range 100_000 {
		tr.add(overlay.Entry{Path: fmt.Sprintf("b/file %d", i), Mode: unix.S_IFREG | 0o644})
	}
	image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Created: created}))
	fsck(t, image)
	mounted(t, image, "ro", func(root string) {
		// Names alone: looking each up takes the kernel a scan of the directory.
		var got []string
		for _, dir := range []string{"a", "b"} {
			entries, err := os.ReadDir(filepath.Join(root, dir))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				got = append(got, dir+"/"+e.Name())
			}
		}
		var want []string
		for name := range tr.entries {
			if strings.Contains(name, "/") {
				want = append(want, name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		same(t, got, want)
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, "a"), &st); err != nil || st.Nlink != 1 {
			t.Errorf("a has %d links (%v), want 1", st.Nlink, err)
		}
	})
}

// TestManyExtents: files with trees of each depth.
func TestManyExtents(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	tr := newTree(t, t.TempDir())
	for _, n := range []int{4, 5, 340, 341, 4 * 340, 4*340 + 1, 340*340/16 + 1} {
		chunks := make([]chunk, n)
		for i := range chunks {
			chunks[i] = chunk{int64(i) * 2 * blockSize, "data"}
		}
		tr.sparse(fmt.Sprintf("extents%d", n), 1<<40, chunks...)
	}
	image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Created: created, Free: 1 << 20}))
	fsck(t, image)
	mounted(t, image, "ro", func(root string) { same(t, mountLines(t, root, false), tr.lines()) })
}

// TestSizes: geometry at the edges of groups, and from small to large; the
// superblock is within what DragonOS takes.
func TestSizes(t *testing.T) {
	need(t, "fsck")
	tr := newTree(t, t.TempDir())
	tr.dir("dir")
	tr.file("dir/file", "content")
	group := int64(blocksPerGroup * blockSize)
	sizes := []int64{
		2 << 20, 16 << 20, group - 4096, group, group + 4096, group + 100*4096, group + 3<<20,
		16 * group, 16*group + 8<<20, 17*group + 60*4096, 25*group + 200*4096, 600 << 30, 2 << 40,
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			if size > 1<<40 && testing.Short() {
				t.Skip("SKIPPED: -short")
			}
			image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Size: size, Created: created, Label: "a label"}))
			fsck(t, image)
			if got := superField(t, image, "Block size"); got != "4096" {
				t.Errorf("blocks of %s bytes", got)
			}
			features := superField(t, image, "Filesystem features")
			for f := range strings.FieldsSeq(features) {
				if !strings.Contains(" has_journal ext_attr resize_inode filetype extent 64bit flex_bg "+
					"sparse_super large_file huge_file dir_nlink extra_isize metadata_csum ", " "+f+" ") {
					t.Errorf("feature %s", f)
				}
			}
			if got := superField(t, image, "Filesystem volume name"); got != "a label" {
				t.Errorf("label %q", got)
			}
		})
	}
}

// TestDeterministic: the same input gives the same bytes, read in whatever
// way.
func TestDeterministic(t *testing.T) {
	p := everything(t).mustPlan(Options{Size: 64 << 20})
	q := everything(t).mustPlan(Options{Size: 64 << 20})
	one, err := os.ReadFile(writeImage(t, t.TempDir(), p))
	if err != nil {
		t.Fatal(err)
	}
	two, err := io.ReadAll(io.NewSectionReader(q, 0, q.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("two plans of one tree differ")
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// TestLostFound: the tree's own is kept.
func TestLostFound(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	tr := newTree(t, t.TempDir())
	tr.dir("lost+found").Mode = unix.S_IFDIR | 0o711
	tr.file("lost+found/x", "found")
	tr.dir("opt")
	tr.dir("opt/lost+found")
	image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Created: created}))
	fsck(t, image)
	mounted(t, image, "ro", func(root string) { same(t, mountLines(t, root, true), tr.lines()) })
}

// TestUse: the image can be filled, emptied and grown.
func TestUse(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	for _, size := range []int64{16 << 20, 100 << 20, 300 << 20} {
		for _, noJournal := range []bool{false, true} {
			t.Run(fmt.Sprintf("size=%d,nojournal=%t", size, noJournal), func(t *testing.T) {
				tr := everything(t)
				image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Size: size, NoJournal: noJournal, Created: created}))
				use(t, image, tr)
			})
		}
	}
}

// use fills the image, deletes what it wrote, grows it, and deletes half of
// what was there.
func use(t tb, image string, tr *tree) {
	t.Helper()
	mounted(t, image, "rw", func(root string) {
		fill(t, root)
		same(t, mountLines(t, root, false), tr.lines())
	})
	runTool(t, "e2fsck", "-fp", image) // resize2fs wants it of what was mounted
	fsck(t, image)
	st, err := os.Stat(image)
	if err != nil {
		t.Fatalf("%v", err)
	}
	runTool(t, "resize2fs", image, fmt.Sprintf("%dK", st.Size()*2>>10))
	fsck(t, image)
	mounted(t, image, "rw", func(root string) {
		same(t, mountLines(t, root, false), tr.lines())
		fill(t, root)
		for path, e := range tr.entries {
			if !e.IsDir() && len(path)%2 == 0 {
				if err := os.Remove(filepath.Join(root, path)); err != nil {
					t.Fatalf("%v", err)
				}
			}
		}
	})
	fsck(t, image)
}

// TestGrowFresh: an image can be grown as it was written, past the descriptors
// that it has.
func TestGrowFresh(t *testing.T) {
	need(t, "fsck")
	for _, size := range []string{"200M", "20G", "90G"} {
		image := writeImage(t, t.TempDir(), everything(t).mustPlan(Options{Size: 100 << 20, Created: created}))
		runTool(t, "resize2fs", image, size)
		fsck(t, image)
	}
}

// TestGrowMounted: the kernel grows the image, past the descriptors that it
// has, while it is mounted.
func TestGrowMounted(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	need(t, "sysresource")
	for _, noJournal := range []bool{false, true} {
		tr := everything(t)
		image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Size: 100 << 20, NoJournal: noJournal, Created: created}))
		if err := os.Truncate(image, 20<<30); err != nil {
			t.Fatal(err)
		}
		mounted(t, image, "rw", func(root string) {
			runTool(t, "resize2fs", strings.TrimSpace(runTool(t, "findmnt", "-no", "SOURCE", root)))
			same(t, mountLines(t, root, false), tr.lines())
		})
		fsck(t, image)
	}
}

// fill writes directories and files until nothing fits, and deletes them. The
// root's time is put back.
func fill(t tb, root string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		t.Fatalf("%v", err)
	}
	const script = `set -e
		mkdir "$0/new"
		cd "$0/new"
		for d in 1 2 3; do
			mkdir $d
			for f in 1 2 3 4 5 6 7 8; do
				echo $f > $d/$f
				setfattr -n user.x -v y $d/$f
				ln -s $f $d/l$f
			done
		done
		if head -c 10G /dev/zero > zeros 2>/dev/null; then echo "is never full"; exit 1; fi
		rm -r "$0/new"`
	if out, err := exec.Command("sh", "-c", script, root).CombinedOutput(); err != nil {
		t.Fatalf("fill: %v\n%s", err, out)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, root, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		t.Fatalf("%v", err)
	}
}
