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
	n, err := tree.Create(etc, "first", 0o644, Owner{}, nil)
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
	n, err := tree.Create(etc, "first", 0o644, Owner{}, nil)
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
		n, err := tree.Create(etc, "first", 0o644, Owner{}, nil)
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
