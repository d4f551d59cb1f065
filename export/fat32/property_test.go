package fat32

import (
	"cmp"
	"flag"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// TestRandomTrees: whatever a tree has is in the image, as other tools read
// it, or in the list of losses. ROOTFS_PROPERTY_CHECKS says how many trees.
func TestRandomTrees(t *testing.T) {
	need(t, "fsckfat")
	need(t, "mtools")
	checks := cmp.Or(os.Getenv("ROOTFS_PROPERTY_CHECKS"), "25")
	if err := flag.Set("rapid.checks", checks); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(folder, "check") //nolint:usetesting // it goes after each check
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		m := drawModel(t, dir)
		image, losses := m.image(dir, Options{
			Size:  rapid.SampledFrom([]int64{40 << 20, 100<<20 + 512, 300 << 20}).Draw(t, "size"),
			Label: rapid.SampledFrom([]string{"", "x", "LABEL OF 11"}).Draw(t, "label"),
			Lossy: true,
		})
		fsck(t, image)
		m.visit("", ".", []string{"."})
		var lost []string
		for _, l := range losses {
			lost = append(lost, l.Path)
		}
		same(t, sorted(lost), sorted(m.lost))
		same(t, lines(t, image, dir), sorted(m.want))
	})
}

// model is a random tree, and says in a second way what becomes of it.
type model struct {
	*tree
	byPath  map[string]*overlay.Entry
	links   map[string]string // paths that symlinks lead to, when they are in the tree
	content map[string]string
	want    []string
	lost    []string
}

func drawModel(t *rapid.T, folder string) *model {
	m := &model{
		tree: newTree(t, folder), byPath: make(map[string]*overlay.Entry),
		links: make(map[string]string), content: make(map[string]string),
	}
	dirs, all := []string{"."}, []string{"."}
	for range rapid.IntRange(0, 60).Draw(t, "entries") {
		name := path.Join(rapid.SampledFrom(dirs).Draw(t, "in"), drawName(t))
		if m.byPath[name] != nil {
			continue
		}
		var e *overlay.Entry
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind == 0 && len(dirs) < 8:
			e = m.dir(name)
			dirs = append(dirs, name)
		case kind <= 2 && len(m.links) < 6:
			e = m.drawLink(t, name, all)
		case kind == 3:
			e = m.add(name, rapid.SampledFrom([]uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK}).Draw(t, "special")|0o644)
		default:
			e = m.drawFile(t, name)
		}
		m.byPath[name] = e
		all = append(all, name)
	}
	return m
}

// drawName makes names that look alike, and some that FAT forbids.
func drawName(t *rapid.T) string {
	pieces := rapid.SampledFrom([]string{
		"a", "A", "b", "long", "LONG", "name", "~1", "~2", ".", ".", " ", "txt", "é", "É", "я", "語", "😀", "+", "[", "1", "12345678", ":", "\\", "\xff",
	})
	name := strings.Join(rapid.SliceOfN(pieces, 1, 6).Draw(t, "name"), "")
	if rapid.IntRange(0, 9).Draw(t, "long") == 0 {
		name += strings.Repeat("é", rapid.IntRange(0, 260).Draw(t, "tail")/2)
	}
	if name = strings.TrimSpace(name); name == "" || name == "." || name == ".." || len(name) > 255 {
		return "plain"
	}
	return name
}

func (m *model) drawFile(t *rapid.T, name string) *overlay.Entry {
	size := rapid.SampledFrom([]int{0, 1, 512, 4096, 8192, 100_000}).Draw(t, "file size") + rapid.IntRange(-1, 1).Draw(t, "more")
	m.content[name] = strings.Repeat(name+"\n", max(size, 0)/(len(name)+1)+1)[:max(size, 0)]
	e := m.file(name, m.content[name])
	e.Mtime.Sec = rapid.Int64Range(minTime, 4_000_000_000).Draw(t, "mtime")
	return e
}

// drawLink makes a symlink to an entry that there is, by an absolute path or
// a relative one, or to none.
func (m *model) drawLink(t *rapid.T, name string, all []string) *overlay.Entry {
	to := rapid.SampledFrom(append(slices.Clone(all), name, "none")).Draw(t, "to")
	if to != "none" {
		m.links[name] = to
	}
	target := "/" + to
	if rapid.Bool().Draw(t, "relative") {
		target = strings.Repeat("../", strings.Count(name, "/")) + to
	}
	return m.symlink(name, target)
}

// visit lists what a directory becomes when it is at a path of the image,
// with the directories that it is in there.
func (m *model) visit(at, dir string, in []string) {
	var names []string
	for name := range m.byPath {
		if path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	folded := make(map[string]bool)
	for _, base := range sorted(names) {
		name, from := path.Join(at, base), path.Join(dir, base)
		for range maxHops + 1 {
			if m.byPath[from] == nil || !m.byPath[from].IsSymlink() {
				break
			}
			from = m.links[from]
		}
		key := strings.ToLower(strings.ToUpper(base))
		loops := m.byPath[path.Join(dir, base)].IsSymlink() && slices.Contains(in, from)
		if loops || !m.holds(from, base) || folded[key] {
			m.lost = append(m.lost, name)
			continue
		}
		folded[key] = true
		e := m.byPath[from]
		if e.IsDir() {
			m.want = append(m.want, line(name, true, 0, ""))
			m.visit(name, from, append(slices.Clone(in), from))
			continue
		}
		m.want = append(m.want, line(name, false, e.Mtime.Sec&^1, m.content[from]))
	}
}

// holds tells whether FAT can hold an entry by a name.
func (m *model) holds(from, name string) bool {
	e := m.byPath[from]
	return e != nil && (e.IsRegular() || e.IsDir()) &&
		!strings.ContainsAny(name, ":\\") && !strings.Contains(name, "\xff") && !strings.HasSuffix(name, ".")
}
