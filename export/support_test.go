package export

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// need skips the test where the machine lacks a capability, or fails it if
// ROOTFS_TEST_REQUIRE names that capability.
func need(t testing.TB, capability string, has bool) {
	t.Helper()
	if has {
		return
	}
	for _, c := range strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ",") {
		if c == capability || c == "all" {
			t.Fatalf("this machine lacks %q, which ROOTFS_TEST_REQUIRE demands", capability)
		}
	}
	t.Skipf("SKIPPED: this machine lacks %q", capability)
}

func needRoot(t testing.TB) { t.Helper(); need(t, "root", os.Getuid() == 0) }

func needTool(t testing.TB, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	need(t, name, err == nil)
}

// run returns what a program prints, and fails the test if it fails.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// hostFile is content in a file of the host.
type hostFile string

func (f hostFile) Open() (*overlay.File, error) {
	fd, err := unix.Open(string(f), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return overlay.NewFile(fd, string(f)), err
}

// tree collects entries; the contents are in a directory of the test.
type tree struct {
	t       testing.TB
	dir     string
	entries []overlay.Entry
}

func newTree(t testing.TB) *tree {
	tr := &tree{t: t, dir: t.TempDir()}
	tr.add(overlay.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755})
	return tr
}

// add fills in what every entry has.
func (tr *tree) add(e overlay.Entry) *overlay.Entry {
	if e.Ino == 0 {
		e.Ino = uint64(len(tr.entries) + 1)
	}
	e.Nlink = max(e.Nlink, 1)
	if e.Mtime == (overlay.Time{}) {
		e.Mtime = overlay.Time{Sec: 1_600_000_000}
	}
	e.Size = max(e.Size, int64(len(e.Target)))
	tr.entries = append(tr.entries, e)
	return &tr.entries[len(tr.entries)-1]
}

// file adds a regular file; parts of data that are nil are holes of a MiB.
func (tr *tree) file(e overlay.Entry, data ...[]byte) *overlay.Entry {
	tr.t.Helper()
	name := filepath.Join(tr.dir, fmt.Sprint(len(tr.entries)))
	f, err := os.Create(name)
	if err != nil {
		tr.t.Fatal(err)
	}
	for _, d := range data {
		if d == nil {
			e.Size += 1 << 20
			continue
		}
		if _, err := f.WriteAt(d, e.Size); err != nil {
			tr.t.Fatal(err)
		}
		e.Size += int64(len(d))
	}
	if err := f.Truncate(e.Size); err != nil {
		tr.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tr.t.Fatal(err)
	}
	if e.Mode == 0 {
		e.Mode = 0o644
	}
	e.Mode |= unix.S_IFREG
	e.Content = hostFile(name)
	return tr.add(e)
}

// lines describes the entries as linesOf describes files.
func (tr *tree) lines() []string {
	var lines []string
	names := map[uint64][]string{}
	for _, e := range tr.entries {
		names[e.Ino] = append(names[e.Ino], e.Path)
	}
	for _, e := range tr.entries {
		l := line{path: e.Path, mode: e.Mode, uid: e.UID, gid: e.GID, mtime: e.Mtime, rdev: e.Rdev, target: e.Target}
		if !e.IsDir() {
			l.names = names[e.Ino]
		}
		if e.IsRegular() {
			l.content(tr.t, string(e.Content.(hostFile)))
		}
		for _, x := range e.Xattrs {
			l.xattrs = append(l.xattrs, fmt.Sprintf("%q=%q", x.Name, x.Value))
		}
		lines = append(lines, l.String())
	}
	sort.Strings(lines)
	return lines
}

// linesOf describes the files of a directory, one line each.
func linesOf(t testing.TB, dir string) []string {
	t.Helper()
	byIno := map[uint64][]string{}
	var all []*line
	inos := map[*line]uint64{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		l := &line{path: rel, mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: overlay.TimeOf(st.Mtim), rdev: st.Rdev}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			l.content(t, path)
		case unix.S_IFLNK:
			l.target, err = os.Readlink(path)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			byIno[st.Ino] = append(byIno[st.Ino], rel)
			inos[l] = st.Ino
		}
		l.xattrs = hostXattrs(t, path)
		all = append(all, l)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range all {
		l.names = byIno[inos[l]]
		lines = append(lines, l.String())
	}
	sort.Strings(lines)
	return lines
}

type line struct {
	path, target, data string
	mode, uid, gid     uint32
	mtime              overlay.Time
	rdev               uint64
	names, xattrs      []string
}

func (l *line) content(t testing.TB, path string) {
	t.Helper()
	f, err := hostFile(path).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	ranges, err := dataRanges(f, size)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		t.Fatal(err)
	}
	l.data = fmt.Sprintf("size=%d data=%v sha256=%x", size, ranges, h.Sum(nil)[:6])
}

func (l *line) String() string {
	return fmt.Sprintf("%q mode=%#o owner=%d:%d mtime=%d.%09d rdev=%d:%d target=%q names=%q %s xattrs=%v",
		l.path, l.mode, l.uid, l.gid, l.mtime.Sec, l.mtime.Nsec, unix.Major(l.rdev), unix.Minor(l.rdev),
		l.target, l.names, l.data, l.xattrs)
}

func hostXattrs(t testing.TB, path string) []string {
	t.Helper()
	list := make([]byte, 65536)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		t.Fatal(err)
	}
	var xs []string
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 65536)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		xs = append(xs, fmt.Sprintf("%q=%q", name, value[:n]))
	}
	sort.Strings(xs)
	return xs
}

// equalLines fails the test with the lines that only one side has.
func equalLines(t testing.TB, what string, want, got []string) {
	t.Helper()
	count := map[string]int{}
	for _, l := range want {
		count[l]++
	}
	for _, l := range got {
		if count[l]--; count[l] < 0 {
			t.Errorf("%s has unexpectedly:\n\t%s", what, l)
		}
	}
	for _, l := range want {
		if count[l] > 0 {
			t.Errorf("%s lacks:\n\t%s", what, l)
			count[l] = 0
		}
	}
}

func closeFile(t testing.TB, f io.Closer) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// litter lists the names in a directory.
func litter(t testing.TB, dir string) []string {
	t.Helper()
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range ents {
		names = append(names, e.Name())
	}
	return names
}
