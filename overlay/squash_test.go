package overlay

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// shown describes a tree: what dump does, times of modification, extended
// attributes, and which names are one file.
func shown(t *testing.T, tree *Tree) []string {
	t.Helper()
	first := make(map[uint64]string)
	lines := strings.Split(strings.TrimSpace(dump(t, tree)), "\n")
	slices.Sort(lines)
	for i, line := range lines {
		path, _, _ := strings.Cut(line, " ")
		if path == "" {
			continue
		}
		var e Entry
		n := at(t, tree, path)
		must(t, tree.Stat(n, &e))
		xattrs, err := tree.Xattrs(n)
		must(t, err)
		if first[e.Ino] == "" {
			first[e.Ino] = path
		}
		lines[i] += fmt.Sprintf(" %d.%09d %d", e.Mtime.Sec, e.Mtime.Nsec, e.Rdev)
		for _, x := range xattrs {
			lines[i] += fmt.Sprintf(" %s=%q", x.Name, x.Value)
		}
		if !e.IsDir() {
			lines[i] += fmt.Sprintf(" %d names, is %s", e.Nlink, first[e.Ino])
		}
	}
	return lines
}

func sameTree(t *testing.T, when string, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing %s", when, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: new %s", when, line)
		}
	}
}

// scribbler makes random edits.
type scribbler struct {
	*rand.Rand
	t    *testing.T
	tree *Tree
}

// pick returns a path of the tree, and its directory and name.
func (s *scribbler) pick() (n, dir *Node, name string) {
	dir = s.tree.Root()
	for {
		var buf [64]DirEntry
		k, err := s.tree.ReadDir(dir, 0, buf[:])
		must(s.t, err)
		if k == 0 {
			return nil, dir, "a"
		}
		name = buf[s.IntN(k)].Name
		n, err = s.tree.Lookup(dir, name, nil)
		must(s.t, err)
		if n.dir == nil || s.IntN(3) == 0 {
			return n, dir, name
		}
		dir = n
	}
}

func (s *scribbler) edit() {
	n, dir, name := s.pick()
	to, toDir, toName := s.pick()
	if to != nil && to.dir != nil {
		toDir = to
	}
	if s.IntN(2) == 0 {
		toName = string(rune('a' + s.IntN(5)))
	}
	// Many of these can't be; that leaves the tree as it is.
	switch s.IntN(16) {
	case 0, 1:
		_, _ = s.tree.Mknod(toDir, toName, 0o644, 0, Owner{}, nil)
	case 2:
		_, _ = s.tree.Mkdir(toDir, toName, 0o755, Owner{}, nil)
	case 3:
		_, _ = s.tree.Symlink(toDir, toName, "target", Owner{}, nil)
	case 4:
		if n != nil {
			_ = s.tree.Link(n, toDir, toName)
		}
	case 5:
		_ = s.tree.Unlink(dir, name)
	case 6:
		if s.tree.removeAll(dir, name) == nil && s.IntN(2) == 0 { // often opaque
			_, _ = s.tree.Mkdir(dir, name, 0o755, Owner{}, nil)
		}
	case 7, 8:
		_ = s.tree.Rename(dir, name, toDir, toName, 0)
	case 9:
		_ = s.tree.Rename(dir, name, toDir, toName, unix.RENAME_EXCHANGE)
	case 10:
		if n != nil && n.typ == unix.S_IFREG {
			_, _ = s.tree.Write(n, []byte{byte('a' + s.IntN(26))}, s.Int64N(4))
		}
	case 11:
		mode := uint32(0o700 | s.IntN(64))
		if n != nil && n.typ != unix.S_IFLNK {
			_ = s.tree.SetAttr(n, &Change{Mode: &mode})
		}
	case 12:
		if n != nil {
			uid, mode := uint32(s.IntN(3)), uint32(s.IntN(0o10000))
			_ = s.tree.SetAttr(n, &Change{UID: &uid, Mode: &mode, Mtime: &SetTime{Time: Time{Sec: s.Int64N(1e9)}}})
		}
	case 13:
		if n != nil {
			attr := []string{"user.a", xattrCapability, xattrACLDefault}[s.IntN(3)]
			_ = s.tree.SetXattr(n, attr, acl(s.t, "u::rwx,u:7:rwx,g::r-x,m::rwx,o::---"), 0)
		}
	case 14:
		_, _ = s.tree.Mknod(toDir, toName, unix.S_IFCHR|0o600, unix.Mkdev(uint32(s.IntN(2)), 0), Owner{}, nil)
	case 15:
		_, _ = s.tree.Symlink(toDir, toName, strings.Repeat("x", maxMetaTarget-1+s.IntN(3)), Owner{UID: 3}, nil)
	}
}

// What is shown now and what was at the other checkpoints stays, whichever
// checkpoints are dropped.
func TestSquashShowsTheSame(t *testing.T) {
	seeds := uint64(60)
	if n, err := strconv.ParseUint(os.Getenv("ROOTFS_PROPERTY_CHECKS"), 10, 64); err == nil {
		seeds = n
	}
	for seed := range seeds {
		p := project(t, "user/apps/a/usr/d/one 1", "user/apps/a/usr/d/e/two 2", "user/apps/a/usr/d/e/f/three 3",
			"user/apps/b/usr/d/e/four 4", "user/sysconfig/usr/a A", "user/sysconfig/usr/b/c C")
		must(t, os.Link(filepath.Join(p.Root, "user/sysconfig/usr/a"), filepath.Join(p.Root, "user/sysconfig/usr/b/linked")))
		tree, err := Open(p, Options{})
		must(t, err)
		s := &scribbler{rand.New(rand.NewPCG(seed, 0)), t, tree}
		was := make(map[string][]string)
		var all []Checkpoint
		for range 4 {
			for range 12 {
				s.edit()
			}
			c, err := tree.Checkpoint(Checkpoint{})
			must(t, err)
			if _, ok := was[c.ID]; !ok {
				all = append(all, c)
			}
			was[c.ID] = shown(t, tree)
		}
		for range 12 {
			s.edit()
		}
		now := shown(t, tree)
		must(t, tree.Close())
		drop := make(map[string]bool)
		for _, c := range all {
			drop[c.ID] = s.IntN(3) > 0
		}
		dropped, err := p.Squash(func(c Checkpoint) bool { return drop[c.ID] })
		must(t, err)
		left, err := p.Checkpoints()
		must(t, err)
		if len(left)+len(dropped) != len(all) {
			t.Errorf("seed %d: %d checkpoints, %d dropped, %d left", seed, len(all), len(dropped), len(left))
		}
		for _, c := range left {
			tree, err := Open(p, Options{ReadOnly: true, Checkpoint: c.ID})
			must(t, err)
			sameTree(t, fmt.Sprintf("seed %d, checkpoint %s", seed, c.ID), was[c.ID], shown(t, tree))
			must(t, tree.Close())
		}
		tree, err = Open(p, Options{})
		must(t, err)
		sameTree(t, fmt.Sprintf("seed %d, dropped %v, now", seed, drop), now, shown(t, tree))
		for range 12 {
			s.tree = tree
			s.edit() // what is left can be edited
		}
		now = shown(t, tree)
		must(t, tree.Close())
		_, err = p.Squash(func(Checkpoint) bool { return true })
		must(t, err)
		tree, err = Open(p, Options{})
		must(t, err)
		sameTree(t, fmt.Sprintf("seed %d, all dropped", seed), now, shown(t, tree))
		must(t, tree.Close())
		if entries, err := os.ReadDir(filepath.Join(p.StateDir(), "edits")); err != nil || len(entries) != 2 {
			t.Errorf("seed %d: left are %v, %v", seed, entries, err)
		}
		if t.Failed() {
			return
		}
	}
}

// A crash between the exchange and the end leaves the layer that is replaced.
func TestSquashCutShort(t *testing.T) {
	p := editProject(t)
	tree, err := Open(p, Options{})
	must(t, err)
	edits(t, tree)
	_, err = tree.Checkpoint(Checkpoint{})
	must(t, err)
	must(t, tree.Rename(at(t, tree, "new"), "moved", tree.Root(), "again", 0))
	must(t, tree.Unlink(at(t, tree, "etc"), "link"))
	want := shown(t, tree)
	must(t, tree.Close())
	stack := filepath.Join(p.StateDir(), "edits")
	run(t, "cp", "-a", filepath.Join(stack, "0001"), filepath.Join(stack, ".new-1"))
	run(t, "cp", "-a", filepath.Join(stack, "0001"), filepath.Join(stack, "saved"))
	_, err = p.Squash(func(Checkpoint) bool { return true })
	must(t, err)
	must(t, os.Rename(filepath.Join(stack, "saved"), filepath.Join(stack, "0001")))
	must(t, os.WriteFile(filepath.Join(stack, "0002", replacesFile), []byte("0001"), 0o644))
	for _, readOnly := range []bool{true, false} {
		tree, err := Open(p, Options{ReadOnly: readOnly})
		must(t, err)
		sameTree(t, fmt.Sprintf("read-only %t", readOnly), want, shown(t, tree))
		must(t, tree.Close())
	}
	if left, err := os.ReadDir(stack); err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// Inode numbers that a squash frees belong to nobody, also not to a copy whose
// only name is in the index.
func TestSquashForgetsNumbersOfTheIndex(t *testing.T) {
	p := project(t, "user/sysconfig/z z")
	tree := open(t, p)
	n, err := tree.Mknod(tree.Root(), "a", 0o644, 0, Owner{}, nil)
	must(t, err)
	must(t, tree.Link(n, tree.Root(), "b"))
	must(t, tree.Link(n, tree.Root(), "c"))
	tree.Release(n, 1)
	_, err = tree.Checkpoint(Checkpoint{})
	must(t, err)
	frozen := inoOf(t, tree, "a")
	_, err = tree.Write(at(t, tree, "a"), []byte("new"), 0)
	must(t, err)
	must(t, tree.Unlink(tree.Root(), "a"))
	must(t, tree.Close())
	_, err = p.Squash(func(Checkpoint) bool { return true })
	must(t, err)
	tree = open(t, p)
	if ino := inoOf(t, tree, "b"); ino == frozen || ino != inoOf(t, tree, "c") {
		t.Errorf("b is %d, c is %d, and %d is free on the host", ino, inoOf(t, tree, "c"), frozen)
	}
	expect(t, tree, `b 100644 0:0 "new"`, `c 100644 0:0 "new"`, `z 100644 0:0 "z"`)
}

// A file that lost all names but one before a checkpoint, and whose copy only the
// index has, is that copy afterwards.
func TestSquashFindsCopiesInTheIndex(t *testing.T) {
	p := project(t, "user/sysconfig/z z")
	tree := open(t, p)
	n, err := tree.Mknod(tree.Root(), "a", 0o644, 0, Owner{}, nil)
	must(t, err)
	d, err := tree.Mkdir(tree.Root(), "d", 0o755, Owner{}, nil)
	must(t, err)
	_, err = tree.Checkpoint(Checkpoint{})
	must(t, err)
	must(t, tree.Link(n, d, "e"))
	must(t, tree.Unlink(tree.Root(), "a"))
	_, err = tree.Checkpoint(Checkpoint{})
	must(t, err)
	_, err = tree.Write(n, []byte("new"), 0) // before anybody has looked e up
	must(t, err)
	must(t, tree.Close())
	_, err = p.Squash(func(Checkpoint) bool { return true })
	must(t, err)
	expect(t, open(t, p), `d 40755 0:0`, `d/e 100644 0:0 "new"`, `z 100644 0:0 "z"`)
}

// Nothing is deleted by a file that names no older layer, be it empty.
func TestDamagedReplacesDeletesNothing(t *testing.T) {
	for _, text := range []string{"", ".", "../..", "0002", "0003"} {
		p := project(t, "user/sysconfig/f one")
		tree := open(t, p)
		_, err := tree.Write(at(t, tree, "f"), []byte("two"), 0)
		must(t, err)
		_, err = tree.Checkpoint(Checkpoint{})
		must(t, err)
		must(t, tree.Close())
		file := filepath.Join(p.StateDir(), "edits/0002", replacesFile)
		must(t, os.WriteFile(file, []byte(text), 0o644))
		if tree, err := Open(p, Options{}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", text, err)
			must(t, tree.Close())
		}
		must(t, os.Remove(file))
		expect(t, open(t, p), `f 100644 0:0 "two"`)
	}
}
