package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A file that had two names is the same one by the name that is left.
func TestLastNameOfALinkedFile(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	n, err := tree.Mknod(etc, "first", 0o644, 0, Owner{}, nil)
	must(t, err)
	must(t, tree.Link(n, etc, "second"))
	must(t, tree.Rename(etc, "second", etc, "third", 0))
	must(t, tree.Unlink(etc, "first"))
	must(t, tree.Unlink(etc, "third"))
	var e Entry
	must(t, tree.Stat(n, &e)) // as who has it open
	if e.Nlink != 0 {
		t.Errorf("%d names", e.Nlink)
	}
}

// A file that lost the name it was known by and got another is frozen by a
// checkpoint as any.
func TestCheckpointOfALinkedAgainFile(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	n, err := tree.Mknod(etc, "first", 0o644, 0, Owner{}, nil)
	must(t, err)
	must(t, tree.Link(n, etc, "second"))
	must(t, tree.Unlink(etc, "first"))
	must(t, tree.Link(n, etc, "third"))
	_, err = tree.Write(n, []byte("then"), 0)
	must(t, err)
	cp, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	_, err = tree.Write(n, []byte("now!"), 0)
	must(t, err)
	must(t, tree.Rename(etc, "third", etc, "fourth", 0))
	var e Entry
	if must(t, tree.Stat(n, &e)); e.Nlink != 2 {
		t.Errorf("%d names", e.Nlink)
	}
	frozen, err := Open(tree.Project(), Options{ReadOnly: true, Checkpoint: cp.ID})
	must(t, err)
	defer frozen.Close() //nolint:errcheck // it was only read
	for path, want := range map[string]string{"etc/second": "then", "etc/third": "then"} {
		if got, err := frozen.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s at the checkpoint: %q, %v", path, got, err)
		}
	}
	for path, want := range map[string]string{"etc/second": "now!", "etc/fourth": "now!"} {
		if got, err := tree.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// A file is frozen by a checkpoint also when the name is gone by which the
// edits had it, and another is left.
func TestCheckpointOfAnotherName(t *testing.T) {
	for _, known := range []string{"first", "second"} {
		tree := open(t, editProject(t))
		etc := at(t, tree, "etc")
		n, err := tree.Mknod(etc, "first", 0o644, 0, Owner{}, nil)
		must(t, err)
		must(t, tree.Link(n, etc, "other"))
		must(t, tree.Rename(etc, "other", etc, "second", 0))
		gone := map[string]string{"first": "second", "second": "first"}[known]
		must(t, tree.Unlink(etc, gone))
		_, err = tree.Write(n, []byte("then"), 0)
		must(t, err)
		cp, err := tree.Checkpoint(Checkpoint{})
		must(t, err)
		_, err = tree.Write(n, []byte("now!"), 0)
		must(t, err)
		if got, err := tree.ReadFile("etc/" + known); err != nil || string(got) != "now!" {
			t.Errorf("%s: %q, %v", known, got, err)
		}
		frozen, err := Open(tree.Project(), Options{ReadOnly: true, Checkpoint: cp.ID})
		must(t, err)
		if got, err := frozen.ReadFile("etc/" + known); err != nil || string(got) != "then" {
			t.Errorf("%s at the checkpoint: %q, %v", known, got, err)
		}
		must(t, frozen.Close())
	}
}

// A file that is open without a name gets one back when it is found by another,
// while its attributes are being read.
func TestOrphanIsFoundByAnotherName(t *testing.T) {
	const files = 100
	p := project(t, "user/sysconfig/etc/ ")
	for i := range files {
		first := filepath.Join(p.Root, "user/sysconfig/etc", fmt.Sprint("first", i))
		must(t, os.WriteFile(first, nil, 0o644))
		must(t, os.Link(first, filepath.Join(filepath.Dir(first), fmt.Sprint("second", i))))
	}
	tree := open(t, p)
	etc := at(t, tree, "etc")
	for i := range files {
		n, err := tree.Lookup(etc, fmt.Sprint("first", i), nil)
		must(t, err)
		must(t, tree.Unlink(etc, fmt.Sprint("first", i)))
		done := make(chan error)
		go func() {
			var e Entry
			var err error
			for range 20 {
				if err = tree.Stat(n, &e); err != nil {
					break
				}
			}
			done <- err
		}()
		other, err := tree.Lookup(etc, fmt.Sprint("second", i), nil)
		must(t, err)
		if other != n {
			t.Error("two nodes for one file")
		}
		must(t, <-done)
	}
}

// A file that is known by one name stays itself when another of its names is
// moved into a directory that is forgotten, and something else comes there.
func TestRenamedNameOfAForgottenDirectory(t *testing.T) {
	tree := open(t, project(t, "user/sysconfig/d1/", "user/sysconfig/d2/", "user/sysconfig/d3/"))
	d1, d2, d3 := at(t, tree, "d1"), at(t, tree, "d2"), at(t, tree, "d3")
	n, err := tree.Mknod(d1, "a", 0o644, 0, Owner{}, nil)
	must(t, err)
	_, err = tree.Write(n, []byte("mine"), 0)
	must(t, err)
	must(t, tree.Link(n, d2, "b"))
	must(t, tree.Rename(d2, "b", d3, "c", 0))
	tree.Release(d3, 1)
	must(t, tree.Rename(tree.Root(), "d3", tree.Root(), "d4", 0))
	d3, err = tree.Mkdir(tree.Root(), "d3", 0o755, Owner{}, nil)
	must(t, err)
	other, err := tree.Mknod(d3, "c", 0o600, 0, Owner{}, nil)
	must(t, err)
	_, err = tree.Write(other, []byte("other"), 0)
	must(t, err)
	tree.files.drop(n.fh.Load()) // as eviction does
	_, err = tree.Write(n, []byte("MINE"), 0)
	must(t, err)
	expect(t, tree, `d1 40755 0:0`, `d1/a 100644 0:0 "MINE"`, `d2 40755 0:0`,
		`d4 40755 0:0`, `d4/c 100644 0:0 "MINE"`, `d3 40755 0:0`, `d3/c 100600 0:0 "other"`)

	d4 := at(t, tree, "d4")
	must(t, tree.Unlink(d4, "c"))
	var e Entry
	if _, err := tree.Lookup(d1, "a", &e); err != nil || e.Nlink != 1 {
		t.Errorf("the other name: %d names, %v", e.Nlink, err)
	}
}

// copiedByOtherName returns a tree that was just opened, in which etc/a and etc/b are
// one file of a layer that was edited as etc/a before.
func copiedByOtherName(t *testing.T) (*Project, *Tree) {
	t.Helper()
	p := project(t, "user/sysconfig/etc/a text")
	in(t, p, `ln user/sysconfig/etc/a user/sysconfig/etc/b`)
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "etc/a"), []byte("TEXT"), 0)
	must(t, err)
	must(t, tree.Close())
	return p, open(t, p)
}

// A copy that only the index has, of a file with several names in a layer, stays
// the same file when the layers are read again.
func TestCopyInTheIndexOutlivesNewLayers(t *testing.T) {
	_, tree := copiedByOtherName(t)
	b := at(t, tree, "etc/b")
	must(t, tree.relayer(new(news)))
	_, err := tree.Checkpoint(Checkpoint{})
	must(t, err)
	_, err = tree.Write(b, []byte("more"), 0)
	must(t, err)
	expect(t, tree, `etc 40755 0:0`, `etc/a 100644 0:0 "more"`, `etc/b 100644 0:0 "more"`)
}

// A file of a layer that is written to after it was edited by one of its names is
// another one than the copy: an export would take them for one file.
func TestCopyIsNotTheFileThatTheLayerHasNow(t *testing.T) {
	p := project(t, "user/sysconfig/etc/a text")
	in(t, p, `cd user/sysconfig/etc; ln a b; ln a c`)
	for _, name := range []string{"a", "b", "c"} {
		inos := make(map[uint64]string)
		tree := open(t, p)
		_, err := tree.Write(at(t, tree, "etc/"+name), []byte(name), 0)
		must(t, err)
		must(t, tree.Close())
		in(t, p, `printf x >>user/sysconfig/etc/c`)
		tree = open(t, p)
		var e Entry
		for _, name := range []string{"a", "b", "c"} {
			must(t, tree.Stat(at(t, tree, "etc/"+name), &e))
			text, err := tree.ReadFile("etc/" + name)
			must(t, err)
			if other, ok := inos[e.Ino]; ok && other != string(text) {
				t.Errorf("%s has the number of %q, and is %q", name, other, text)
			}
			inos[e.Ino] = string(text)
		}
		must(t, tree.Close())
	}
}

// Nor is it when it had one name as it was copied, and has another now.
func TestCopyIsNotTheFileThatIsLinkedLater(t *testing.T) {
	p := project(t, "user/sysconfig/etc/b text")
	tree := open(t, p)
	_, err := tree.Write(at(t, tree, "etc/b"), []byte("TEXT"), 0)
	must(t, err)
	must(t, tree.Close())
	in(t, p, `ln user/sysconfig/etc/b user/sysconfig/etc/a; ln user/sysconfig/etc/b user/sysconfig/etc/c`)
	tree = open(t, p)
	a, b, c := inoOf(t, tree, "etc/a"), inoOf(t, tree, "etc/b"), inoOf(t, tree, "etc/c")
	if a == b || a != c {
		t.Errorf("numbers %d, %d, %d", a, b, c)
	}
	_, err = tree.Write(at(t, tree, "etc/c"), []byte("more"), 0)
	must(t, err)
	must(t, tree.Close())
	tree = open(t, p)
	if inoOf(t, tree, "etc/a") != a || inoOf(t, tree, "etc/b") != b || inoOf(t, tree, "etc/c") != a {
		t.Error("the numbers didn't stay")
	}
}

// The name of such a copy may become a directory's.
func TestCopyInTheIndexLosesItsNameToADirectory(t *testing.T) {
	p, tree := copiedByOtherName(t)
	at(t, tree, "etc/b")
	in(t, p, `cd user/sysconfig/etc; rm b; mkdir b; echo new >b/file`)
	must(t, tree.relayer(new(news)))
	expect(t, tree, `etc 40755 0:0`, `etc/a 100644 0:0 "TEXT"`, `etc/b 40755 0:0`, `etc/b/file 100644 0:0 "new\n"`)
}

// A file that has a name needs no descriptor, whatever others it has lost.
func TestFilesWithNamesAreNotKeptOpen(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(tree *Tree, etc *Node, i int) error
	}{
		{"unlinked by one of two names", func(tree *Tree, etc *Node, i int) error {
			return tree.Unlink(etc, fmt.Sprint("b", i))
		}},
		{"unlinked by the name that it is known by", func(tree *Tree, etc *Node, i int) error {
			if err := tree.Unlink(etc, fmt.Sprint("a", i)); err != nil {
				return err
			}
			_, err := tree.Lookup(etc, fmt.Sprint("b", i), nil)
			return err
		}},
		{"replaced by one of two names", func(tree *Tree, etc *Node, i int) error {
			if _, err := tree.Mknod(etc, "c", 0o644, 0, Owner{}, nil); err != nil {
				return err
			}
			return tree.Rename(etc, "c", etc, fmt.Sprint("b", i), 0)
		}},
		{"made without a name", func(tree *Tree, etc *Node, i int) error {
			n, err := tree.Tmpfile(etc, 0o644, Owner{}, nil)
			if err != nil {
				return err
			}
			return tree.Link(n, etc, fmt.Sprint("c", i))
		}},
	} {
		tree := open(t, editProject(t))
		etc := at(t, tree, "etc")
		const most = 4
		tree.files.max = most
		for i := range 10 * most {
			n, err := tree.Mknod(etc, fmt.Sprint("a", i), 0o644, 0, Owner{}, nil)
			must(t, err)
			must(t, tree.Link(n, etc, fmt.Sprint("b", i)))
			must(t, tc.do(tree, etc, i))
		}
		if tree.files.open > most+1 {
			t.Errorf("%s: %d files are open", tc.name, tree.files.open)
		}
	}
}
