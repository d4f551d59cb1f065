package overlay

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openAt opens the tree as it was at a checkpoint.
func openAt(t *testing.T, p *Project, id string) *Tree {
	t.Helper()
	tree, err := Open(p, Options{ReadOnly: true, Checkpoint: id})
	must(t, err)
	t.Cleanup(func() { must(t, tree.Close()) })
	return tree
}

func TestCheckpointIsAMoment(t *testing.T) {
	p := editProject(t)
	tree := open(t, p)
	hold(t, tree, tree.Root())
	edits(t, tree)
	before := dump(t, tree)
	c, err := tree.Checkpoint(Checkpoint{Name: "one"})
	must(t, err)
	if got := dump(t, tree); got != before {
		t.Errorf("a checkpoint changed the tree to\n%s", got)
	}

	// Everything again, on top of what is frozen.
	root, etc := tree.Root(), at(t, tree, "etc")
	_, err = tree.Write(at(t, tree, "etc/hard"), []byte("CONF"), 0)
	must(t, err)
	must(t, tree.Unlink(etc, "link"))
	must(t, tree.Rename(at(t, tree, "new"), "moved", root, "back", 0))
	must(t, tree.Unlink(root, "null"))
	_, err = tree.Mkdir(root, "null", 0o700, Owner{}, nil)
	must(t, err)
	must(t, tree.Rename(root, "back", root, "again", 0))
	must(t, tree.Unlink(at(t, tree, "new"), "file"))
	must(t, tree.Rmdir(root, "new"))
	after := dump(t, tree)
	for _, want := range []string{`etc/conf 100644 0:0 "CONF!"`, `etc/hard 100644 0:0 "CONF!"`, `again/sub/x 100644 0:0 "x"`, `null 40700 0:0`} {
		if !strings.Contains(after, want+"\n") {
			t.Errorf("no %q in\n%s", want, after)
		}
	}
	if got := dump(t, openAt(t, p, c.ID)); sorted(got) != sorted(before) {
		t.Errorf("the checkpoint is\n%s\nand was\n%s", got, before)
	}
	c2, err := tree.Checkpoint(Checkpoint{Name: "two"})
	must(t, err)
	if same, err := tree.Checkpoint(Checkpoint{}); err != nil || same.ID != c2.ID {
		t.Errorf("nothing changed since %s, and %v %v", c2.ID, same, err)
	}
	if got := dump(t, openAt(t, p, c2.ID)); sorted(got) != sorted(after) {
		t.Errorf("the second checkpoint is\n%s\nand was\n%s", got, after)
	}
	must(t, tree.Close())
	tree = open(t, p)
	if got := dump(t, tree); sorted(got) != sorted(after) {
		t.Errorf("opened again\n%s\nand was\n%s", got, after)
	}
	all, err := p.Checkpoints()
	if err != nil || len(all) != 2 || all[0].Name != "one" || all[1].Name != "two" {
		t.Errorf("checkpoints %v, %v", all, err)
	}
}

func sorted(lines string) string {
	l := strings.Split(lines, "\n")
	sortLines(l)
	return strings.Join(l, "\n")
}

func TestUncheckpointLeavesNoTrace(t *testing.T) {
	p := editProject(t)
	tree := open(t, p)
	edits(t, tree)
	must(t, tree.Unlink(tree.Root(), "null"))
	must(t, tree.Rmdir(tree.Root(), "srv")) // a whiteout
	c, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	hold(t, tree, tree.Root()) // seen while it was frozen
	buf := make([]byte, 4)
	_, err = tree.Read(at(t, tree, "etc/conf"), buf, 0)
	must(t, err)
	must(t, tree.Uncheckpoint(c.ID))
	if all, err := p.Checkpoints(); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
	ino := inoOf(t, tree, "etc/conf")
	_, err = tree.Write(at(t, tree, "etc/conf"), []byte("C"), 0)
	must(t, err)
	_, err = tree.Mkdir(tree.Root(), "srv", 0o755, Owner{}, nil) // over its whiteout, so opaque
	must(t, err)
	must(t, tree.Close())
	tree = open(t, p)
	want := make([]string, 0, len(edited))
	for _, line := range edited {
		if !strings.HasPrefix(line, "null ") {
			want = append(want, strings.ReplaceAll(line, `"conf!"`, `"Conf!"`))
		}
	}
	expect(t, tree, want...)
	if again := inoOf(t, tree, "etc/hard"); again != ino {
		t.Errorf("inode %d became %d", ino, again)
	}
}

// What was read while it was frozen can be written when it no longer is.
func TestWritingAfterUncheckpoint(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	must(t, tree.Close())
	tree = open(t, p)
	f := at(t, tree, "f") // nothing has opened it yet
	c, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	_, err = tree.Read(f, make([]byte, 3), 0)
	must(t, err)
	must(t, tree.Uncheckpoint(c.ID))
	_, err = tree.Write(f, []byte("six"), 0)
	must(t, err)
	size := int64(2)
	must(t, tree.SetAttr(f, &Change{Size: &size}))
	expect(t, tree, `f 100644 0:0 "si"`)
	if all, err := p.Checkpoints(); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

// A checkpoint isn't taken back when a file was written that is open by a name
// that is gone, and has another, which nobody has looked up.
func TestUncheckpointKeepsWhatHasNoNameYet(t *testing.T) {
	p := project(t, "user/sysconfig/a one")
	tree := open(t, p)
	a := at(t, tree, "a")
	_, err := tree.Write(a, []byte("two"), 0)
	must(t, err)
	must(t, tree.Link(a, tree.Root(), "b"))
	must(t, tree.Close())
	tree = open(t, p)
	a = at(t, tree, "a")
	_, err = tree.Read(a, make([]byte, 3), 0)
	must(t, err)
	must(t, tree.Unlink(tree.Root(), "a"))
	c, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	_, err = tree.Write(a, []byte("six"), 0)
	must(t, err)
	must(t, tree.Uncheckpoint(c.ID))
	_, err = tree.Write(a, []byte("S"), 0)
	must(t, err)
	expect(t, tree, `b 100644 0:0 "Six"`)
}

// A file or directory that was first seen while it was frozen lives on, like any
// other, for who has it open when its name goes.
func TestRemovingAfterUncheckpoint(t *testing.T) {
	for _, how := range []string{"unlink", "rename over"} {
		p := project(t, "user/sysconfig/g other")
		tree := open(t, p)
		n, err := tree.Mknod(tree.Root(), "f", 0o644, 0, Owner{}, nil)
		must(t, err)
		_, err = tree.Write(n, []byte("text"), 0)
		must(t, err)
		_, err = tree.Mkdir(tree.Root(), "d", 0o755, Owner{}, nil)
		must(t, err)
		must(t, tree.Close())
		tree = open(t, p)
		c, err := tree.Checkpoint(Checkpoint{Temporary: true})
		must(t, err)
		f, d := at(t, tree, "f"), at(t, tree, "d")
		must(t, tree.Uncheckpoint(c.ID))
		if how == "unlink" {
			must(t, tree.Unlink(tree.Root(), "f"))
		} else {
			must(t, tree.Rename(tree.Root(), "g", tree.Root(), "f", 0))
		}
		must(t, tree.Rmdir(tree.Root(), "d"))
		buf := make([]byte, 8)
		if k, err := tree.Read(f, buf, 0); string(buf[:k]) != "text" {
			t.Errorf("%s: its content is %q (%v)", how, buf[:k], err)
		}
		_, err = tree.Write(f, []byte("T"), 0)
		must(t, err)
		var e Entry
		must(t, tree.Stat(f, &e))
		must(t, tree.Stat(d, &e))
	}
}

// readOnce makes a project with an edit, at which somebody reads.
func readOnce(t *testing.T) (*Project, *Tree, Checkpoint) {
	t.Helper()
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	c, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	return p, tree, c
}

// What two read at a time stays for the second of them.
func TestCheckpointOfTwoReaders(t *testing.T) {
	p, tree, a := readOnce(t)
	b, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	second := openAt(t, p, b.ID)
	must(t, tree.Uncheckpoint(a.ID))
	_, err = tree.Write(at(t, tree, "f"), []byte("six"), 0)
	must(t, err)
	expect(t, second, `f 100644 0:0 "two"`)
	must(t, tree.Uncheckpoint(b.ID))
	expect(t, tree, `f 100644 0:0 "six"`)
}

// A checkpoint that somebody made while an export read stays when it ends.
func TestUncheckpointKeepsWhatBecamePermanent(t *testing.T) {
	p, tree, a := readOnce(t)
	b, err := tree.Checkpoint(Checkpoint{Name: "release"})
	must(t, err)
	must(t, tree.Uncheckpoint(a.ID))
	all, err := p.Checkpoints()
	must(t, err)
	if len(all) != 1 || all[0].ID != b.ID || all[0].Name != "release" || all[0].Temporary {
		t.Errorf("checkpoints %v, want %v", all, b)
	}
}

// Whoever names a checkpoint finds it by that name, edits or not.
func TestCheckpointGetsItsName(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	for _, tc := range []struct{ name, id string }{{"", "0001"}, {"a", "0001"}, {"", "0001"}, {"a", "0001"}, {"b", "0002"}, {"", "0002"}} {
		c, err := tree.Checkpoint(Checkpoint{Name: tc.name})
		must(t, err)
		all, err := p.Checkpoints()
		must(t, err)
		if last := all[len(all)-1]; c.ID != tc.id || last != c || tc.name != "" && c.Name != tc.name {
			t.Errorf("a checkpoint %q is %v, and the last %v", tc.name, c, last)
		}
		expect(t, openAt(t, p, c.ID), `f 100644 0:0 "two"`)
	}
}

func TestUncheckpointKeepsTheRootsTime(t *testing.T) {
	_, tree, c := readOnce(t)
	must(t, tree.SetAttr(tree.Root(), &Change{Mtime: &SetTime{Time: Time{Sec: 1000}}}))
	must(t, tree.Uncheckpoint(c.ID))
	var e Entry
	must(t, tree.Stat(tree.Root(), &e))
	if e.Mtime.Sec != 1000 {
		t.Errorf("the root's time is %d", e.Mtime.Sec)
	}
}

func TestManyCheckpoints(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	must(t, tree.Close())
	in(t, p, `mv .rootfs/edits/0001 .rootfs/edits/9999`)
	tree = open(t, p)
	c, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	_, err = tree.Write(at(t, tree, "f"), []byte("six"), 0)
	must(t, err)
	must(t, tree.Close())
	expect(t, open(t, p), `f 100644 0:0 "six"`)
	expect(t, openAt(t, p, c.ID), `f 100644 0:0 "two"`)
}

// removedButOpen counts this process's descriptors of files without a name.
func removedButOpen(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && strings.HasSuffix(name, " (deleted)") {
			n++
		}
	}
	return n
}

func TestCheckpointsAndRestoresKeepNothingOpen(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	before := removedButOpen(t)
	plain, err := Open(p, Options{ReadOnly: true, WithoutEdits: true})
	must(t, err)
	defer plain.Close() //nolint:errcheck // only read
	for i := range 10 {
		f := at(t, tree, "f")
		_, err := tree.Write(f, []byte{byte('a' + i)}, 0)
		must(t, err)
		tree.Release(f, 1)
		c, err := tree.Checkpoint(Checkpoint{Temporary: true})
		must(t, err)
		must(t, tree.Uncheckpoint(c.ID))
		must(t, tree.Restore(plain, "f"))
	}
	if n := removedButOpen(t) - before; n > 0 {
		t.Errorf("%d removed files stay open", n)
	}
}

// What a restore copies after a checkpoint isn't in that.
func TestRestoreDuringACheckpoint(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	from := openAt(t, p, "")
	r := &restoring{from: from, to: tree}
	made, err := tree.Mknod(tree.Root(), "new", 0o644, 0, Owner{}, nil)
	must(t, err)
	c, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	must(t, r.content(at(t, from, "f"), made))
	expect(t, openAt(t, p, c.ID), `f 100644 0:0 "one"`, `new 100644 0:0 ""`)
	expect(t, tree, `f 100644 0:0 "one"`, `new 100644 0:0 "one"`)
}

func TestRestoreOfNothingMakesNothing(t *testing.T) {
	p := project(t, "user/sysconfig/d/f one")
	tree := open(t, p)
	must(t, tree.Unlink(at(t, tree, "d"), "f"))
	must(t, tree.Rmdir(tree.Root(), "d"))
	plain, err := Open(p, Options{ReadOnly: true, WithoutEdits: true})
	must(t, err)
	defer plain.Close() //nolint:errcheck // only read
	if err := tree.Restore(plain, "d/none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("restore of nothing: %v", err)
	}
	if got := dump(t, tree); got != "" {
		t.Errorf("restore of nothing makes %s", got)
	}
}

func TestUncheckpointKeepsWhatWasEditedSince(t *testing.T) {
	tree := open(t, project(t, "user/sysconfig/f one"))
	c, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	_, err = tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	must(t, tree.Uncheckpoint(c.ID))
	if all, err := tree.Project().Checkpoints(); err != nil || len(all) != 1 {
		t.Errorf("checkpoints %v, %v", all, err)
	}
	expect(t, tree, `f 100644 0:0 "two"`)
}

func TestFrozenHardLinksStayLinked(t *testing.T) {
	p := project(t, "user/sysconfig/a one")
	in(t, p, `ln user/sysconfig/a user/sysconfig/b`)
	tree := open(t, p)
	for i, text := range []string{"two", "six", "ten"} {
		name := []string{"a", "b", "a"}[i]
		_, err := tree.Write(at(t, tree, name), []byte(text), 0)
		must(t, err)
		expect(t, tree, `a 100644 0:0 "`+text+`"`, `b 100644 0:0 "`+text+`"`)
		_, err = tree.Checkpoint(Checkpoint{})
		must(t, err)
	}
	var e Entry
	if must(t, tree.Stat(at(t, tree, "b"), &e)); e.Nlink != 2 {
		t.Errorf("%d links", e.Nlink)
	}
	expect(t, openAt(t, p, "0002"), `a 100644 0:0 "six"`, `b 100644 0:0 "six"`)
	must(t, tree.Unlink(tree.Root(), "a"))
	expect(t, tree, `b 100644 0:0 "ten"`)
	if _, err := tree.Lookup(tree.Root(), "a", nil); err != unix.ENOENT { //nolint:errorlint // bare
		t.Error(err)
	}
}

func TestRestore(t *testing.T) {
	p := editProject(t)
	tree := open(t, p)
	layers := sorted(dump(t, tree))
	edits(t, tree)
	before := sorted(dump(t, tree))
	c, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	ruin := func() {
		for _, name := range []string{"etc", "new", "bin"} {
			must(t, tree.removeAll(tree.Root(), name))
		}
		_, err = tree.Mknod(tree.Root(), "etc", 0o600, 0, Owner{}, nil) // another type
		must(t, err)
	}
	ruin()
	from := openAt(t, p, c.ID)
	for _, path := range []string{"etc", "/new/", "bin"} {
		must(t, tree.Restore(from, path))
	}
	if got := sorted(dump(t, tree)); got != before {
		t.Errorf("restored\n%s\nwant\n%s", got, before)
	}
	if a, b := inoOf(t, tree, "etc/conf"), inoOf(t, tree, "etc/hard"); a != b {
		t.Error("hard links came apart")
	}
	v, err := tree.GetXattr(at(t, tree, "etc/conf"), "security.capability")
	if err != nil || string(v) != "cap" {
		t.Errorf("capability %q, %v", v, err)
	}

	ruin()
	plain, err := Open(p, Options{ReadOnly: true, WithoutEdits: true})
	must(t, err)
	t.Cleanup(func() { must(t, plain.Close()) })
	for _, path := range []string{"etc", "bin/a", "bin", "lib", "srv"} {
		must(t, tree.Restore(plain, path))
	}
	must(t, tree.Restore(plain, "null")) // which the layers don't have
	if got := sorted(dump(t, tree)); got != layers {
		t.Errorf("restored from the layers\n%s\nwant\n%s", got, layers)
	}
	if err := tree.Restore(plain, "no/such"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("in neither: %v", err)
	}
}

// Who has what is replaced, or has it by another name, hears that it lost a name.
func TestRestoreAnnouncesWhatItRemoves(t *testing.T) {
	p := project(t, "user/sysconfig/d/one text", "user/sysconfig/z z")
	tree, h := watched(t, p)
	dir, one, z := at(t, tree, "d"), at(t, tree, "d/one"), at(t, tree, "z")
	must(t, tree.Link(one, tree.Root(), "two"))
	must(t, tree.Link(z, tree.Root(), "y"))
	plain, err := Open(p, Options{ReadOnly: true, WithoutEdits: true})
	must(t, err)
	t.Cleanup(func() { must(t, plain.Close()) })
	h.forget()
	must(t, tree.Restore(plain, "d", "y"))
	temporary := func(name string) bool { return strings.HasPrefix(name, ".rootfs-restore-") }
	if !slices.ContainsFunc(slices.Collect(maps.Keys(h.names)), temporary) {
		t.Error("the name that it had until it was whole: not announced")
	}
	for name, n := range map[string]*Node{"d": dir, "two": one, "z": z} {
		if !h.node(n) {
			t.Errorf("%s: not announced", name)
		}
	}
}

// Names of one file are one file again, also where each is restored by itself.
func TestRestoreOfLinkedPaths(t *testing.T) {
	p := project(t, "user/sysconfig/a/one text", "user/sysconfig/z z")
	in(t, p, `mkdir user/sysconfig/b; ln user/sysconfig/a/one user/sysconfig/b/two`)
	tree := open(t, p)
	for _, dir := range []string{"a", "b"} {
		must(t, tree.removeAll(tree.Root(), dir))
	}
	plain, err := Open(p, Options{ReadOnly: true, WithoutEdits: true})
	must(t, err)
	defer plain.Close() //nolint:errcheck // only read
	must(t, tree.Restore(plain, "a/one", "b", "b/two", "a"))
	if a, b := inoOf(t, tree, "a/one"), inoOf(t, tree, "b/two"); a != b {
		t.Errorf("inode %d and %d", a, b)
	}
	var e Entry
	if must(t, tree.Stat(at(t, tree, "a/one"), &e)); e.Nlink != 2 {
		t.Errorf("%d links", e.Nlink)
	}
	expect(t, tree, `z 100644 0:0 "z"`, `a 40755 0:0`, `a/one 100644 0:0 "text"`, `b 40755 0:0`, `b/two 100644 0:0 "text"`)
}

// A [[file]] of the manifest is about the layers, whatever a checkpoint has.
func TestManifestAndCheckpoints(t *testing.T) {
	p := project(t, "user/sysconfig/d/f text", "user/sysconfig/d/g text",
		"rootfs.toml [[file]]|path = \"/d/f\"|mode = \"0600\"|[[file]]|path = \"/d/g\"|mode = \"0600\"")
	tree := open(t, p)
	must(t, tree.Unlink(at(t, tree, "d"), "g"))
	must(t, tree.Rename(tree.Root(), "d", tree.Root(), "x", 0))
	_, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	must(t, tree.Rename(tree.Root(), "x", tree.Root(), "y", 0))
	must(t, tree.Close())
	expect(t, open(t, p), `y 40755 0:0`, `y/f 100600 0:0 "text"`)
}

// What an export reads without a daemon stays as it is, whoever edits or collects.
func TestSteadyTree(t *testing.T) {
	p := project(t, "user/sysconfig/f one", "user/sysconfig/g g")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	must(t, tree.Unlink(tree.Root(), "g"))
	_, err = tree.Checkpoint(Checkpoint{})
	must(t, err)
	must(t, tree.Close())
	steady, err := Open(p, Options{ReadOnly: true, Steady: true})
	must(t, err)
	all := func(Checkpoint) bool { return true }
	if dropped, err := p.Squash(all); err == nil || len(dropped) != 0 {
		t.Errorf("dropped %v (%v) while it is read", dropped, err)
	}
	tree = open(t, p)
	_, err = tree.Write(at(t, tree, "f"), []byte("six"), 0)
	must(t, err)
	_, err = tree.Mknod(tree.Root(), "new", 0o644, 0, Owner{}, nil)
	must(t, err)
	expect(t, steady, `f 100644 0:0 "two"`)
	must(t, steady.Close())
	if edited, err := p.BeingEdited(); err != nil || !edited {
		t.Errorf("edited: %v, %v", edited, err)
	}
	must(t, tree.Close())
	if edited, err := p.BeingEdited(); err != nil || edited {
		t.Errorf("edited: %v, %v", edited, err)
	}
	dropped, err := p.Squash(all)
	must(t, err)
	if len(dropped) != 2 {
		t.Errorf("dropped %v", dropped)
	}
	expect(t, open(t, p), `f 100644 0:0 "six"`, `new 100644 0:0 ""`)
}

// It stays as it is also when an export of a mount that was made since ends.
func TestSteadyTreeBesideAReaderThatEnds(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
	must(t, err)
	must(t, tree.Close())
	steady, err := Open(p, Options{ReadOnly: true, Steady: true})
	must(t, err)
	defer steady.Close() //nolint:errcheck // only read
	tree = open(t, p)
	c, err := tree.Checkpoint(Checkpoint{Temporary: true})
	must(t, err)
	must(t, tree.Uncheckpoint(c.ID))
	_, err = tree.Write(at(t, tree, "f"), []byte("six"), 0)
	must(t, err)
	expect(t, steady, `f 100644 0:0 "two"`)
	expect(t, tree, `f 100644 0:0 "six"`)
}

// A checkpoint that was dropped since somebody found it isn't the one before it.
func TestDroppedCheckpointIsMissed(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	for _, text := range []string{"two", "six"} {
		_, err := tree.Write(at(t, tree, "f"), []byte(text), 0)
		must(t, err)
		_, err = tree.Checkpoint(Checkpoint{})
		must(t, err)
	}
	must(t, tree.Close())
	dropped, err := p.Squash(func(c Checkpoint) bool { return c.ID == "0002" })
	must(t, err)
	if len(dropped) != 1 {
		t.Errorf("dropped %v", dropped)
	}
	for _, id := range []string{"0002", "0003", "0009"} { // 0003 is the edits
		tree, err := Open(p, Options{ReadOnly: true, Checkpoint: id})
		if err == nil {
			t.Errorf("checkpoint %s: %s", id, dump(t, tree))
			must(t, tree.Close())
		} else if !strings.Contains(err.Error(), "no checkpoint "+id) {
			t.Error(err)
		}
	}
}

// Edits of another version are refused as they are.
func TestUnknownFormatIsLeftAlone(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	tree := open(t, p)
	_, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	must(t, tree.Close())
	in(t, p, `cd .rootfs/edits; echo 2 >format; mkdir .new-1 .gone-1; echo x >0001/work/x`)
	dir := filepath.Join(p.StateDir(), "edits")
	before := hostDump(t, dir)
	_, writeErr := Open(p, Options{})
	_, readErr := Open(p, Options{ReadOnly: true})
	_, logErr := p.Checkpoints()
	for _, err := range []error{writeErr, readErr, logErr} {
		if err == nil || !strings.Contains(err.Error(), `edits of format "2"`) {
			t.Errorf("it says %v", err)
		}
	}
	if after := hostDump(t, dir); after != before {
		t.Errorf("they are\n%s\nand were\n%s", after, before)
	}
}

// A checkpoint that says nothing of itself is told of, and is not none.
func TestDamagedCheckpointIsTold(t *testing.T) {
	p, tree, c := readOnce(t)
	file := filepath.Join(p.StateDir(), "edits", c.ID, checkpointFile)
	must(t, os.Remove(file))
	if all, err := p.Checkpoints(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("checkpoints %v, %v", all, err)
	}
	must(t, tree.Close())
}

// Who waits for a gc can be told to give up.
func TestWaitingForACollectionEnds(t *testing.T) {
	p := project(t, "user/sysconfig/f one")
	must(t, open(t, p).Close())
	must(t, os.MkdirAll(p.cacheDir(), 0o755))
	for _, file := range []string{p.StateFile("edits/format"), filepath.Join(p.cacheDir(), collectLock)} {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		must(t, flock(f, unix.LOCK_EX))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		opened := make(chan error, 1)
		go func() {
			tree, err := Open(p, Options{ReadOnly: true, Steady: true, Context: ctx})
			if err == nil {
				err = tree.Close()
			}
			opened <- err
		}()
		select {
		case err := <-opened:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", file, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it waits on", file)
		}
		cancel()
		must(t, f.Close())
	}
}
