package fat32

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// tb is what helpers need of a test, so that property tests can use them too.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// need skips a test where the machine lacks a capability, or fails it where
// ROOTFS_TEST_REQUIRE names the capability.
func need(t testing.TB, capability string) {
	t.Helper()
	tools := map[string][]string{
		"fsckfat": {"fsck.fat", "mkfs.vfat"},
		"mtools":  {"mdir", "mcopy", "minfo", "mattrib"},
	}[capability]
	for _, tool := range tools {
		_, err := exec.LookPath(tool)
		if err == nil {
			continue
		}
		if slices.Contains(strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ","), capability) {
			t.Fatalf("%s is required: %v", capability, err)
		}
		t.Skipf("SKIPPED, needs %s: %v (install dosfstools and mtools)", capability, err)
	}
}

// tool runs a tool that has to succeed and returns what it prints.
func tool(t tb, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLS_SKIP_CHECK=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// fsck runs fsck.fat, which has to say nothing but its version and its summary.
func fsck(t tb, image string) {
	t.Helper()
	for line := range strings.Lines(tool(t, "fsck.fat", "-n", image)) {
		if !strings.HasPrefix(line, "fsck.fat 4") && !strings.HasPrefix(line, image+": ") {
			t.Fatalf("fsck.fat says of %s: %s", image, line)
		}
	}
}

// hostFile is a file's content by its path.
type hostFile string

func (h hostFile) Open() (*overlay.File, error) {
	fd, err := unix.Open(string(h), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return overlay.NewFile(fd, string(h)), err
}

const mtime = 1_700_000_001 // 2023-11-14 22:13:21

// tree is a filesystem in memory, its files' bytes in a folder.
type tree struct {
	t       tb
	folder  string
	entries []*overlay.Entry
}

func newTree(t tb, folder string) *tree {
	tr := &tree{t: t, folder: folder}
	tr.add(".", unix.S_IFDIR|0o755)
	return tr
}

// add adds an entry, its mode with the type.
func (tr *tree) add(name string, mode uint32) *overlay.Entry {
	e := &overlay.Entry{Path: name, Mode: mode, Nlink: 1, Mtime: overlay.Time{Sec: mtime, Nsec: 250_000_000}}
	e.Ino = uint64(len(tr.entries) + 1)
	tr.entries = append(tr.entries, e)
	return e
}

func (tr *tree) dir(name string) *overlay.Entry { return tr.add(name, unix.S_IFDIR|0o755) }

func (tr *tree) file(name, content string) *overlay.Entry {
	e := tr.add(name, unix.S_IFREG|0o644)
	host := filepath.Join(tr.folder, fmt.Sprint(len(tr.entries)))
	if err := os.WriteFile(host, []byte(content), 0o600); err != nil {
		tr.t.Fatalf("%v", err)
	}
	e.Size, e.Content = int64(len(content)), hostFile(host)
	e.Blocks = (e.Size + 511) / 512
	return e
}

// empty adds a sparse file without data.
func (tr *tree) empty(name string, size int64) *overlay.Entry {
	e := tr.file(name, "")
	if err := os.Truncate(string(e.Content.(hostFile)), size); err != nil {
		tr.t.Fatalf("%v", err)
	}
	e.Size = size
	return e
}

// repeat adds count copies of a file to each of some new directories.
func (tr *tree) repeat(one *overlay.Entry, count int, dirs ...string) {
	for _, dir := range dirs {
		tr.dir(dir)
		for i := range count {
			e := *one
			e.Path, e.Ino = fmt.Sprintf("%s/%05d", dir, i), uint64(len(tr.entries)+1)
			tr.entries = append(tr.entries, &e)
		}
	}
}

func (tr *tree) symlink(name, target string) *overlay.Entry {
	e := tr.add(name, unix.S_IFLNK|0o777)
	e.Target, e.Size = target, int64(len(target))
	return e
}

// walk returns the entries in the order of a walk.
func (tr *tree) walk() []*overlay.Entry {
	key := func(e *overlay.Entry) string {
		if e.Path == "." {
			return ""
		}
		return "\x00" + strings.ReplaceAll(e.Path, "/", "\x00") // what a directory holds follows it
	}
	slices.SortFunc(tr.entries, func(x, y *overlay.Entry) int { return strings.Compare(key(x), key(y)) })
	return tr.entries
}

// planner returns a planner that has the tree.
func (tr *tree) planner(opts Options) *Planner {
	tr.t.Helper()
	p, err := New(opts)
	if err != nil {
		tr.t.Fatalf("%v", err)
	}
	var reused overlay.Entry // as a walk reuses it
	for _, e := range tr.walk() {
		reused = *e
		if err := p.Add(&reused); err != nil {
			tr.t.Fatalf("%v", err)
		}
	}
	return p
}

// image writes an image of the tree to a file in dir, and returns its name and
// the losses.
func (tr *tree) image(dir string, opts Options) (string, []Loss) {
	tr.t.Helper()
	p := tr.planner(opts)
	pl, err := p.Plan()
	if err != nil {
		tr.t.Fatalf("plan: %v", err)
	}
	return writeImage(tr.t, dir, pl), p.Losses()
}

// rootOffset returns where the root directory begins, from the boot sector.
func rootOffset(t tb, p *plan.Plan) int64 {
	t.Helper()
	b := make([]byte, sectorSize)
	if _, err := p.ReadAt(b, 0); err != nil {
		t.Fatalf("%v", err)
	}
	return (int64(le.Uint16(b[14:])) + 2*int64(le.Uint32(b[36:]))) * sectorSize
}

func writeImage(t tb, dir string, p *plan.Plan) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "*.img")
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := p.WriteFile(context.Background(), f, nil); err != nil {
		t.Fatalf("write %s: %v", f.Name(), err)
	}
	if err := f.Close(); err != nil {
		t.Fatalf("%v", err)
	}
	return f.Name()
}

// lines describes what an image holds as mcopy reads it: a line a path, with
// the time, and the content or a slash.
func lines(t tb, image, dir string) []string {
	t.Helper()
	root, err := os.MkdirTemp(dir, "read")
	if err != nil {
		t.Fatalf("%v", err)
	}
	if tool(t, "mdir", "-b", "-i", image, "::") != "" {
		tool(t, "mcopy", "-s", "-m", "-n", "-i", image, "::*", root)
	}
	var all []string
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		if d.IsDir() {
			all = append(all, line(rel, true, 0, ""))
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(name)
		all = append(all, line(rel, false, st.ModTime().Unix(), string(content)))
		return err
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	slices.Sort(all)
	return all
}

// line describes a file or a directory, whose time mcopy doesn't keep, and
// which shows each half of a surrogate pair as _.
func line(name string, isDir bool, sec int64, content string) string {
	for _, r := range name {
		if r > 0xffff {
			name = strings.ReplaceAll(name, string(r), "__")
		}
	}
	if isDir {
		return name + "/"
	}
	if len(content) > 20 {
		content = fmt.Sprintf("%.8s… (%d bytes, hash %x)", content, len(content), hash32(content))
	}
	return fmt.Sprintf("%s %s %q", name, time.Unix(sec, 0).UTC().Format(time.DateTime), content)
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func hash32(s string) (h uint32) {
	for _, c := range []byte(s) {
		h = h*16777619 ^ uint32(c)
	}
	return h
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
			t.Fatalf("differs at line %d\n got %s\nwant %s", i+1, g, w)
		}
	}
}

// listed renders losses.
func listed(losses []Loss) []string {
	var all []string
	for _, l := range losses {
		all = append(all, l.String())
	}
	return all
}
