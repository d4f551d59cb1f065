package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// list looks up all that is in a directory, as a walk does.
func list(t *testing.T, tree *Tree, dir *Node) (nodes []*Node) {
	t.Helper()
	var names [10]DirEntry
	count, err := tree.ReadDir(dir, 0, names[:])
	must(t, err)
	for _, e := range names[:count] {
		n, err := tree.Lookup(dir, e.Name, nil)
		must(t, err)
		nodes = append(nodes, n)
	}
	return nodes
}

// walkInto does what a walk does that comes to a directory.
func walkInto(t *testing.T, tree *Tree, path string) {
	t.Helper()
	dir := at(t, tree, path)
	list(t, tree, dir)
	tree.ReadAhead(dir)
}

// A walk finds the names of the directories that it comes to read already, and
// no others are.
func TestReadAheadOfAWalk(t *testing.T) {
	tree := open(t, project(t,
		"user/apps/pkg/usr/b/c/file x", "user/apps/pkg/usr/d/file x", "user/apps/pkg/usr/e file", "user/apps/pkg/var/g/file x", "user/apps/pkg/var/h/"))
	var known []*Node
	visited := 0
	var walk func(dir *Node)
	walk = func(dir *Node) {
		if visited > 0 && !dir.dir.loaded {
			t.Errorf("%s isn't read when a walk comes to it", dir.path())
		}
		visited++
		children := list(t, tree, dir)
		known = append(known, children...)
		tree.ReadAhead(dir)
		ahead := -visited + 1 // the root isn't among the known
		for _, n := range known {
			if n.dir != nil && n.dir.loaded {
				ahead++
			}
		}
		if ahead > 1 {
			t.Errorf("after %s %d are read ahead", dir.path(), ahead)
		}
		for _, n := range children {
			if n.dir != nil {
				walk(n)
			}
		}
	}
	walk(tree.Root())
	if visited != 8 {
		t.Errorf("%d directories visited", visited)
	}
}

// What nobody has looked up isn't read ahead.
func TestNoReadAheadOfTheUnknown(t *testing.T) {
	tree := open(t, project(t, "user/apps/pkg/usr/b/file x"))
	usr := at(t, tree, "usr")
	var names [10]DirEntry
	_, err := tree.ReadDir(usr, 0, names[:])
	must(t, err)
	tree.ReadAhead(usr)
	if b := at(t, tree, "usr/b"); b.dir.loaded {
		t.Error("a directory is read that nobody has looked up")
	}
}

// Nor what is large, or below a directory that was removed.
func TestReadAheadLeavesAlone(t *testing.T) {
	p := project(t, "user/apps/pkg/usr/large/", "user/apps/pkg/var/old/file x")
	for i := range 200 {
		name := fmt.Sprintf("%s-%d", strings.Repeat("long", 30), i)
		must(t, os.WriteFile(filepath.Join(p.AppsDir(), "pkg/usr/large", name), nil, 0o644))
	}
	tree := open(t, p)
	usr, large := at(t, tree, "usr"), at(t, tree, "usr/large")
	tree.ReadAhead(usr)
	if large.dir.loaded {
		t.Error("a large directory is read ahead")
	}
	if got := len(list(t, tree, large)); got != 10 {
		t.Errorf("%d of 10 entries when it is asked for", got)
	}
	gone, old := at(t, tree, "var"), at(t, tree, "var/old")
	tree.mu.Lock()
	tree.detach(tree.root.dir.alive("var"), new(news))
	tree.mu.Unlock()
	tree.ReadAhead(gone)
	tree.ReadAhead(old)
	if old.dir.loaded {
		t.Error("read ahead in a directory that was removed")
	}
}

// The attributes of the entries that a walk comes to are there already, once, and
// not those of an earlier time.
func TestAttributesReadAhead(t *testing.T) {
	p := project(t, "user/apps/pkg/usr/b/one 1", "user/apps/pkg/usr/b/two 2", "user/apps/pkg/usr/c/x x", "user/apps/pkg/usr/d/y y")
	tree, h := listening(t, p)
	usr := at(t, tree, "usr")
	b := list(t, tree, usr)[0]
	ready := func(name string) bool { return slices.Contains(tree.ahead.names, name) }
	size := func(name string) int64 {
		t.Helper()
		var e Entry
		n, err := tree.Lookup(b, name, &e)
		must(t, err)
		h.forget()
		tree.Release(n, 1)
		return e.Size
	}
	tree.ReadAhead(usr)
	if !ready("one") || !ready("two") || ready("x") {
		t.Fatalf("read ahead: %q", tree.ahead.names)
	}
	if got := size("one"); got != 1 || ready("one") {
		t.Errorf("size %d, and still there: %t", got, ready("one"))
	}
	in(t, p, `echo longer >user/apps/pkg/usr/b/one; echo longer >user/apps/pkg/usr/b/two`)
	if got := size("one"); got != 7 {
		t.Errorf("size %d when asked again", got)
	}
	within(t, "forgotten", func() bool {
		tree.mu.RLock()
		defer tree.mu.RUnlock()
		return tree.ahead.part == nil
	})
	if got := size("two"); got != 7 {
		t.Errorf("size %d after it changed", got)
	}
}

// What changes when its attributes were read ahead, and is looked up at once, is
// announced, unless it is shown as it is.
func TestChangeAfterReadingAhead(t *testing.T) {
	p := project(t, "user/apps/pkg/usr/b/file 1")
	tree, h := listening(t, p)
	walkInto(t, tree, "usr")
	in(t, p, `echo longer >user/apps/pkg/usr/b/file; chmod 755 user/apps/pkg/usr/b/file`)
	var e Entry
	n, err := tree.Lookup(at(t, tree, "usr/b"), "file", &e) // with what was read ahead, or not any more
	must(t, err)
	t.Cleanup(func() { tree.Release(n, 1) })
	within(t, "announced", func() bool { return h.node(n) || e.Size == 7 && e.Mode == unix.S_IFREG|0o755 })
	must(t, tree.Stat(n, &e))
	if e.Size != 7 || e.Mode != unix.S_IFREG|0o755 {
		t.Errorf("size %d, mode %o", e.Size, e.Mode)
	}
}

// Too late, they are read again; and of what isn't watched, they aren't read ahead.
func TestAttributesReadTooLongAgo(t *testing.T) {
	p := project(t, "user/apps/pkg/usr/b/file 1")
	tree, _ := listening(t, p)
	walkInto(t, tree, "usr")
	tree.ahead.when = tree.ahead.when.Add(-2 * aheadAge)
	b := at(t, tree, "usr/b")
	var a attrs
	if tree.ahead.take(b.dir, "file", b.upper().layer, &a) != nil {
		t.Error("old attributes are used")
	}
	unwatched := open(t, project(t, "user/apps/pkg/usr/b/file 1"))
	walkInto(t, unwatched, "usr")
	if unwatched.ahead.part != nil {
		t.Error("read ahead without a watch")
	}
}

// A slow host holds up who comes meanwhile for one entry, not for all.
func TestAttributesAreReadForAShortTime(t *testing.T) {
	p := project(t, "user/apps/pkg/usr/b/one 1", "user/apps/pkg/usr/b/two 2", "user/apps/pkg/usr/b/three 3")
	tree, _ := listening(t, p)
	b := at(t, tree, "usr/b")
	tree.mu.RLock()
	must(t, tree.load(b))
	tree.ahead.read(b.dir, 0)
	tree.mu.RUnlock()
	if got := slices.DeleteFunc(slices.Clone(tree.ahead.names), func(name string) bool { return name == "" }); len(got) != 1 {
		t.Errorf("read ahead without time: %q", got)
	}
}

// Where inotify's limit is met, nobody says that they have changed.
func TestAttributesNotReadAheadUnheard(t *testing.T) {
	p := project(t, "user/apps/pkg/usr/b/file 1")
	tree, _ := listening(t, p)
	tree.watch.events.mu.Lock()
	tree.watch.events.err = unix.ENOSPC
	tree.watch.events.mu.Unlock()
	walkInto(t, tree, "usr")
	if tree.ahead.part != nil {
		t.Error("read ahead without a watch")
	}
}
