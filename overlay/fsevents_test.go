package overlay

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// told returns a test for what e has told of.
func told(t *testing.T, e *folderEvents) func(path string) bool {
	t.Helper()
	var mu sync.Mutex
	var all batch
	go e.read(func(note func(*batch)) {
		mu.Lock()
		defer mu.Unlock()
		note(&all)
	})
	t.Cleanup(e.close)
	return func(path string) bool {
		mu.Lock()
		defer mu.Unlock()
		return all.names[filepath.Dir(path)][filepath.Base(path)]
	}
}

// A folder may have several paths, and lose all but one.
func TestWatchOfAFolderThatBecameAnother(t *testing.T) {
	e := newFolderEvents()
	happened := told(t, e)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, path := range []string{a, b} {
		must(t, os.Mkdir(path, 0o755))
		must(t, e.add(path))
	}
	must(t, os.Rename(b, filepath.Join(dir, "c")))
	must(t, os.Symlink("a", b))
	must(t, e.add(b))
	save(t, filepath.Join(a, "x"), nil)
	within(t, "told by both paths", func() bool { return happened(filepath.Join(a, "x")) && happened(filepath.Join(b, "x")) })
	e.remove(b)
	save(t, filepath.Join(dir, "c/y"), nil)
	save(t, filepath.Join(a, "y"), nil)
	within(t, "told by the path that is left", func() bool { return happened(filepath.Join(a, "y")) })
	if happened(filepath.Join(b, "y")) {
		t.Error("told by a path that isn't watched")
	}
	must(t, os.RemoveAll(a))
	within(t, "all forgotten", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.wds) == 0 && len(e.paths) == 0
	})
}

func TestFoldersThatTakeAnothersPlaceAreLive(t *testing.T) {
	for _, tc := range []struct {
		name  string
		moves []string
	}{
		{"swapped", []string{"b", "c", "a", "b", "c", "a"}},
		{"the other stays", []string{"b", "c", "a", "b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "user/sysconfig/usr/a/sub/x x", "user/sysconfig/usr/b/sub/y y")
			tree, h := watched(t, p)
			usr := filepath.Join(p.Root, "user/sysconfig/usr")
			for i := 0; i < len(tc.moves); i += 2 {
				must(t, os.Rename(filepath.Join(usr, tc.moves[i]), filepath.Join(usr, tc.moves[i+1])))
			}
			within(t, "x", has(tree, "usr/b/sub/x"))
			hold(t, tree, tree.Root())
			h.forget()
			save(t, filepath.Join(usr, "b/sub/z"), nil)
			within(t, "z", func() bool { return has(tree, "usr/b/sub/z")() && h.name("z") })
		})
	}
}

// Of writing to a mapped file, inotify tells no sooner than when it is closed.
func TestMappedFilesAreLive(t *testing.T) {
	p := project(t, "user/sysconfig/f old")
	tree, h := watched(t, p)
	n := at(t, tree, "f")
	f, err := os.OpenFile(filepath.Join(p.Root, "user/sysconfig/f"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close() //nolint:errcheck // closed below
	text, err := unix.Mmap(int(f.Fd()), 0, 3, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	must(t, f.Close())
	h.forget()
	copy(text, "new")
	must(t, unix.Munmap(text))
	within(t, "announced", func() bool { return h.node(n) })
}

func TestFolderInTwoPlacesIsLive(t *testing.T) {
	p := project(t, "rootfs.toml [[layer]]|source = \"t\"|[[layer]]|source = \"t/usr\"|", "t/usr/one 1")
	tree, _ := watched(t, p)
	in(t, p, `echo 2 >t/usr/two`)
	within(t, "both", func() bool { return has(tree, "usr/two")() && has(tree, "two")() })
}

// Where the system gives no inotify, what is done through the tree is announced all
// the same, and the layers are looked at now and then.
func TestLayersAreLiveWithoutInotify(t *testing.T) {
	p := project(t, "user/sysconfig/etc/f f")
	tree := open(t, p)
	h := &heard{names: make(map[string]bool), nodes: make(map[*Node]bool), early: make(map[string]bool)}
	tree.log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), h), nil))
	n := at(t, tree, "etc/f")
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}))
	tree.Watch(h)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if h.logged("max_user_instances") != 1 {
		t.Error("nothing is said of it")
	}
	uid := uint32(7)
	must(t, tree.Chown("etc/f", &uid, nil, false))
	if !h.node(n) {
		t.Error("another owner isn't announced")
	}
	save(t, filepath.Join(p.Root, "user/sysconfig/etc/new"), nil)
	within(t, "new", func() bool { return h.name("new") && has(tree, "etc/new")() })
	must(t, os.MkdirAll(filepath.Join(p.Root, "user/apps/a/opt"), 0o755))
	within(t, "a new package", has(tree, "opt"))
}
