package ext4

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// hostFile is a file's content by its path.
type hostFile string

func (h hostFile) Open() (*overlay.File, error) {
	fd, err := unix.Open(string(h), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return overlay.NewFile(fd, string(h)), err
}

// tree is a filesystem in memory, its files' bytes in a folder.
type tree struct {
	t       tb
	folder  string
	entries map[string]*overlay.Entry
	inos    uint64
}

func newTree(t tb, folder string) *tree {
	tr := &tree{t: t, folder: folder, entries: make(map[string]*overlay.Entry)}
	tr.add(overlay.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, Mtime: overlay.Time{Sec: 1_700_000_000, Nsec: 123_456_789}})
	return tr
}

// add adds an entry, with an inode of its own if it has none.
func (tr *tree) add(e overlay.Entry) *overlay.Entry {
	if e.Ino == 0 {
		tr.inos++
		e.Ino, e.Nlink = tr.inos, 1
	}
	slices.SortFunc(e.Xattrs, func(x, y overlay.Xattr) int { return strings.Compare(x.Name, y.Name) })
	tr.entries[e.Path] = &e
	return &e
}

func (tr *tree) dir(name string) *overlay.Entry {
	return tr.add(overlay.Entry{Path: name, Mode: unix.S_IFDIR | 0o755})
}

func (tr *tree) file(name, content string) *overlay.Entry {
	return tr.sparse(name, int64(len(content)), chunk{0, content})
}

// chunk is a piece of a sparse file.
type chunk struct {
	off  int64
	data string
}

func (tr *tree) sparse(name string, size int64, chunks ...chunk) *overlay.Entry {
	e := tr.add(overlay.Entry{Path: name, Mode: unix.S_IFREG | 0o644, Size: size})
	host := filepath.Join(tr.folder, fmt.Sprint(e.Ino))
	f, err := os.Create(host)
	if err == nil {
		err = f.Truncate(size)
	}
	for _, c := range chunks {
		if err == nil {
			_, err = f.WriteAt([]byte(c.data), c.off)
		}
	}
	if err == nil {
		err = f.Close()
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(host, &st)
	}
	if err != nil {
		tr.t.Fatalf("%v", err)
	}
	e.Blocks = st.Blocks
	if len(chunks) > 0 && st.Blocks == 0 {
		e.Blocks = (size + 511) / 512 // not allocated yet
	}
	if size > 0 {
		e.Content = hostFile(host)
	}
	return e
}

func (tr *tree) symlink(name, target string) *overlay.Entry {
	return tr.add(overlay.Entry{Path: name, Mode: unix.S_IFLNK | 0o777, Target: target, Size: int64(len(target))})
}

func (tr *tree) device(name string, kind, major, minor uint32) *overlay.Entry {
	return tr.add(overlay.Entry{Path: name, Mode: kind | 0o600, Rdev: unix.Mkdev(major, minor)})
}

// link gives a file another name.
func (tr *tree) link(old, name string) {
	first := tr.entries[old]
	for _, e := range tr.entries {
		if e.Ino == first.Ino {
			e.Nlink++
		}
	}
	e := *first
	e.Path = name
	tr.add(e)
}

// walk returns the entries in the order of a walk.
func (tr *tree) walk() []*overlay.Entry {
	list := make([]*overlay.Entry, 0, len(tr.entries))
	for _, e := range tr.entries {
		list = append(list, e)
	}
	key := func(e *overlay.Entry) string {
		if e.Path == "." {
			return ""
		}
		return strings.ReplaceAll("\x00"+e.Path, "/", "\x00") // a directory's entries follow it
	}
	slices.SortFunc(list, func(x, y *overlay.Entry) int { return strings.Compare(key(x), key(y)) })
	return list
}

// plan plans an image of the tree.
func (tr *tree) plan(opts Options) (*plan.Plan, error) {
	p, err := New(opts)
	if err != nil {
		return nil, err
	}
	var reused overlay.Entry // as a walk reuses it
	for _, e := range tr.walk() {
		reused = *e
		if err := p.Add(&reused); err != nil {
			return nil, err
		}
	}
	return p.Plan()
}

// mustPlan is plan for trees that have to be accepted.
func (tr *tree) mustPlan(opts Options) *plan.Plan {
	p, err := tr.plan(opts)
	if err != nil {
		tr.t.Fatalf("plan: %v", err)
	}
	return p
}

// lines describes every field of every entry, one line each, by path.
func (tr *tree) lines() []string {
	links := make(map[uint64]uint32)
	for _, e := range tr.entries {
		links[e.Ino]++
		if e.IsDir() && e.Path != "." {
			parent := tr.entries[path.Dir(e.Path)]
			links[parent.Ino]++
		}
	}
	var lines []string
	for _, e := range tr.entries {
		nlink := links[e.Ino]
		if e.IsDir() {
			if nlink++; nlink > maxLinks {
				nlink = 1
			}
		}
		xattrs := make(map[string]string)
		for _, x := range e.Xattrs {
			xattrs[x.Name] = string(x.Value)
		}
		host := ""
		if h, ok := e.Content.(hostFile); ok {
			host = string(h)
		}
		lines = append(lines, line(tr.t, e, nlink, xattrs, host))
	}
	slices.Sort(lines)
	return lines
}

// line describes an entry; its content is read from a host file, if any.
func line(t tb, e *overlay.Entry, nlink uint32, xattrs map[string]string, host string) string {
	s := fmt.Sprintf("%q mode=%o owner=%d:%d nlink=%d mtime=%d.%09d", e.Path, e.Mode, e.UID, e.GID, nlink, e.Mtime.Sec, e.Mtime.Nsec)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s += fmt.Sprintf(" size=%d", e.Size)
		if host != "" && e.Size > 0 {
			s += " " + contentLine(t, host, e.Size)
		}
	case unix.S_IFLNK:
		s += fmt.Sprintf(" target=%q", e.Target)
	case unix.S_IFCHR, unix.S_IFBLK:
		s += fmt.Sprintf(" rdev=%d:%d", unix.Major(e.Rdev), unix.Minor(e.Rdev))
	}
	if len(xattrs) > 0 {
		s += fmt.Sprintf(" xattrs=%q", xattrs) // sorted by fmt
	}
	return s
}

// contentLine describes a file's data blocks: where they are and their hash.
func contentLine(t tb, host string, size int64) string {
	f, err := hostFile(host).Open()
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	h := sha256.New()
	var s strings.Builder
	for _, r := range blockRuns(written(t, f.Fd(), size)) {
		from := int64(r.first) * blockSize
		length := min(int64(r.count)*blockSize, size-from)
		_ = binary.Write(h, binary.LittleEndian, from)
		if _, err := io.Copy(h, io.NewSectionReader(f, from, length)); err != nil {
			t.Fatalf("%v", err)
		}
		if s.Len() < 200 {
			fmt.Fprintf(&s, "%d+%d ", from, length)
		}
	}
	return fmt.Sprintf("data=%s%x", s.String(), h.Sum(nil)[:8])
}

// written lists what isn't a hole to lseek(2), as reserved space is while nobody
// has read it.
func written(t tb, fd int, size int64) (ranges []plan.Range) {
	for end := int64(0); end < size; {
		start, err := unix.Seek(fd, end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
		ranges = append(ranges, plan.Range{Off: start, Len: end - start})
	}
	return ranges
}

// mountLines describes a mounted filesystem as [tree.lines] does a tree.
func mountLines(t tb, root string, ownLostFound bool) []string {
	var lines []string
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		if rel == lostFound && !ownLostFound {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		e := overlay.Entry{
			Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
			Rdev: st.Rdev, Size: st.Size, Mtime: overlay.TimeOf(st.Mtim),
		}
		if e.IsSymlink() {
			if e.Target, err = os.Readlink(name); err != nil {
				return err
			}
		}
		xattrs, err := readXattrs(name)
		if err != nil {
			return err
		}
		nlink := uint32(st.Nlink)
		if rel == "." && !ownLostFound && nlink != 1 {
			nlink-- // lost+found
		}
		lines = append(lines, line(t, &e, nlink, xattrs, name))
		return nil
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	slices.Sort(lines)
	return lines
}

func readXattrs(name string) (map[string]string, error) {
	names, err := listXattrs(name)
	if err != nil {
		return nil, err
	}
	xattrs := make(map[string]string)
	buf := make([]byte, 64<<10)
	for _, x := range names {
		n, err := unix.Lgetxattr(name, x, buf)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", x, name, err)
		}
		xattrs[x] = string(buf[:n])
	}
	return xattrs, nil
}

// same compares what is with what should be, line by line.
func same(t tb, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("differs\n got %s\nwant %s", g, w)
		}
	}
}
