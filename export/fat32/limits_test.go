package fat32

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// TestSizes: sizes up to 2 TiB, with the clusters that mkfs.vfat chooses.
func TestSizes(t *testing.T) {
	need(t, "fsckfat")
	const mib = 1 << 20
	for _, size := range []int64{
		34 * mib, 64 * mib, 128*mib + 512, 259 * mib, 260 * mib, 261 * mib, 512 * mib, 8192 * mib, 8193 * mib,
		16384 * mib, 16385 * mib, 32768 * mib, 32769 * mib, 100_000 * mib, maxSectors * sectorSize,
	} {
		t.Run(fmt.Sprintf("%dMiB", size/mib), func(t *testing.T) {
			dir := t.TempDir()
			tr := newTree(t, dir)
			tr.dir("a")
			tr.file("a/b", strings.Repeat("c", 100_000))
			image, _ := tr.image(dir, Options{Size: size})
			if st, err := os.Stat(image); err != nil || st.Size() != size {
				t.Fatalf("the image has %d bytes (%v)", st.Size(), err)
			}
			if size <= 16384*mib { // larger FATs take fsck.fat long to read
				fsck(t, image)
			}
			theirs := dir + "/mkfs"
			if err := os.WriteFile(theirs, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(theirs, size); err != nil {
				t.Fatal(err)
			}
			tool(t, "mkfs.vfat", "-F", "32", theirs)
			if got, want := clusterSectors(t, image), clusterSectors(t, theirs); got != want {
				t.Errorf("clusters of %d sectors, mkfs.vfat has %d", got, want)
			}
		})
	}
}

func clusterSectors(t *testing.T, image string) byte {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	b := make([]byte, sectorSize)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return b[13]
}

// TestNeededSize: what doesn't fit is told with a size that fits, which is the
// least.
func TestNeededSize(t *testing.T) {
	need(t, "fsckfat")
	for _, content := range []int64{0, 1 << 20, 200 << 20, 255 << 20, 256 << 20, 257 << 20, 300 << 20} {
		tr := newTree(t, t.TempDir())
		tr.empty("file", content)
		_, err := tr.planner(Options{Size: 1 << 20}).Plan()
		var size *plan.SizeError
		if !errors.As(err, &size) || size.Size != 1<<20 {
			t.Fatalf("an image of 1 MiB: %v", err)
		}
		need := size.Need
		image, _ := tr.image(t.TempDir(), Options{Size: need})
		fsck(t, image)
		if _, err := tr.planner(Options{Size: need - sizeUnit}).Plan(); err == nil {
			t.Errorf("%d bytes fit %d, which is less than %d", content, need-sizeUnit, need)
		}
	}
}

// TestSmallFiles: what needs smaller clusters than an image of the size usually
// has, gets them.
func TestSmallFiles(t *testing.T) {
	need(t, "fsckfat")
	tr := newTree(t, t.TempDir())
	tr.repeat(tr.file("one", "x"), 35_000, "a", "b")
	for _, c := range []struct {
		size int64
		want byte // sectors a cluster
	}{{260 << 20, 1}, {262 << 20, 4}, {300 << 20, 8}} {
		p, err := tr.planner(Options{Size: c.size}).Plan()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, sectorSize)
		if _, err := p.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if b[13] != c.want {
			t.Errorf("%d bytes: clusters of %d sectors, want %d", c.size, b[13], c.want)
		}
		if c.size == 262<<20 {
			fsck(t, writeImage(t, t.TempDir(), p))
		}
	}
}

// TestNeededSmallFiles: the size that small files need is that with the clusters
// in which they take the least, of those that it may have.
func TestNeededSmallFiles(t *testing.T) {
	tr := newTree(t, t.TempDir())
	tr.repeat(tr.empty("one", 4097), 30_000, "a", "b")
	var size *plan.SizeError
	if _, err := tr.planner(Options{Size: 100 << 20}).Plan(); !errors.As(err, &size) {
		t.Fatalf("60,000 files of 4097 bytes in 100 MiB: %v", err)
	}
	if _, err := tr.planner(Options{Size: size.Need}).Plan(); err != nil {
		t.Errorf("they don't fit the %d bytes that they need: %v", size.Need, err)
	}
	if _, err := tr.planner(Options{Size: size.Need - sizeUnit}).Plan(); err == nil {
		t.Errorf("they fit %d bytes, which is less than %d", size.Need-sizeUnit, size.Need)
	}
}

// TestFreeSpace: an image of automatic size has room for what was asked.
func TestFreeSpace(t *testing.T) {
	for _, free := range []int64{1, 10 << 20, 250 << 20, 260 << 20, 0, 8 << 30, 100 << 30} {
		tr := newTree(t, t.TempDir())
		tr.file("a", "content")
		p, err := tr.planner(Options{Free: free}).Plan()
		if err != nil {
			t.Fatal(err)
		}
		if free == 0 {
			free = defaultFree
		}
		b := make([]byte, 2*sectorSize)
		if _, err := p.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		has := int64(le.Uint32(b[sectorSize+488:])) * int64(b[13]) * sectorSize
		if has < free || p.Size()%sizeUnit != 0 {
			t.Errorf("%d bytes are free in an image of %d, want %d", has, p.Size(), free)
		}
		if free >= defaultFree && p.Size() > free+free/500+64<<20 {
			t.Errorf("an image of %d bytes for %d free ones", p.Size(), free)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{Size: -1}, {Size: 2 << 40}, {Free: -1}, {Free: 3 << 40}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	tr := newTree(t, t.TempDir())
	for i := range 600 {
		tr.empty(fmt.Sprint(i), maxFileSize)
	}
	if _, err := tr.planner(Options{}).Plan(); err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("2.3 TiB were planned: %v", err)
	}
}

// TestOrder: entries that don't come as a walk gives them are refused.
func TestOrder(t *testing.T) {
	dir := func(name string) *overlay.Entry { return &overlay.Entry{Path: name, Mode: unix.S_IFDIR | 0o755} }
	file := func(name string) *overlay.Entry { return &overlay.Entry{Path: name, Mode: unix.S_IFREG | 0o644} }
	for _, c := range []struct {
		entries []*overlay.Entry
		want    string
	}{
		{[]*overlay.Entry{file(".")}, ".: the root is one directory"},
		{[]*overlay.Entry{dir("."), dir(".")}, ".: the root is one directory"},
		{[]*overlay.Entry{file("a")}, "a: its directory was not added just before it"},
		{[]*overlay.Entry{dir("."), file("a/b")}, "a/b: its directory was not added just before it"},
		{[]*overlay.Entry{dir("."), dir("a"), dir("b"), file("a/b")}, "a/b: its directory was not added just before it"},
		{[]*overlay.Entry{dir("."), file("b"), file("a")}, `a: added after "b", out of order`},
		{[]*overlay.Entry{dir("."), file("a"), file("a")}, `a: added after "a", out of order`},
		{[]*overlay.Entry{dir("."), file("../a")}, "../a: its directory was not added just before it"},
		{[]*overlay.Entry{dir("."), file("..")}, `..: not the path of an entry: ".."`},
		{[]*overlay.Entry{dir("."), file("/a")}, `/a: its directory was not added just before it`},
		{[]*overlay.Entry{dir("."), file("a\x00")}, "a\x00: not the path of an entry: \"a\\x00\""},
		{[]*overlay.Entry{dir("."), {Path: "a", Mode: unix.S_IFREG, Size: 1}}, "a: a file of 1 bytes without content"},
	} {
		p, err := New(Options{})
		for _, e := range c.entries {
			if err == nil {
				err = p.Add(e)
			}
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	p, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Plan(); err == nil {
		t.Error("planned an image without a root")
	}
	if err := p.Add(dir(".")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Plan(); err != nil {
		t.Error(err)
	}
	if _, err := p.Plan(); err == nil {
		t.Error("planned twice")
	}
	if err := p.Add(file("a")); err == nil {
		t.Error("added after the plan")
	}
}

// gone is content that can't be opened.
type gone struct{}

func (gone) Open() (*overlay.File, error) { return nil, os.ErrNotExist }

// TestMissingSource: errors name the file by its path in the tree.
func TestMissingSource(t *testing.T) {
	for _, blocks := range []int64{0, 8} { // read for its holes, or for its content
		tr := newTree(t, t.TempDir())
		tr.dir("dir")
		e := tr.file("dir/file", "x")
		e.Content, e.Blocks = gone{}, blocks
		tr.symlink("dir/link", "file")
		p, err := tr.planner(Options{Size: 64 << 20}).Plan()
		if err == nil {
			_, err = p.ReadAt(make([]byte, 2<<20), 0)
		}
		if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "dir/file: ") {
			t.Errorf("got %v", err)
		}
	}
}
