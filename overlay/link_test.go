package overlay

import "testing"

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
