package overlay

import (
	"path/filepath"
	"slices"
)

// SameParts tells whether two nodes, each of a tree of the same project, are made
// of the same files of the host: they show the same, and so does all that is below
// them, if the trees have the same copies (SameCopies).
func (n *Node) SameParts(other *Node) bool {
	same := func(a, b *hostDir) bool {
		return a.layer.Dir == b.layer.Dir && a.path() == b.path()
	}
	switch {
	case n.dir != nil && other.dir != nil:
		return slices.EqualFunc(n.dir.stack, other.dir.stack, same)
	case n.dir != nil || other.dir != nil || n.part == nil || other.part == nil:
		return false
	}
	return n.hostName() == other.hostName() && same(n.part, other.part)
}

// SameCopies tells whether two trees of the same project have the same copies of
// layers' files with several names. Such a copy is shown by names in directories
// that have no part in the edits.
func (t *Tree) SameCopies(other *Tree) (bool, error) {
	ours, err := t.copies()
	if err != nil {
		return false, err
	}
	theirs, err := other.copies()
	return slices.Equal(ours, theirs), err
}

// copies returns the paths of what the indexes have, sorted.
func (t *Tree) copies() (all []string, err error) {
	for _, x := range t.indexes {
		names, err := readNames(x.dir)
		if err != nil {
			return nil, err
		}
		for _, h := range names {
			all = append(all, filepath.Join(x.dir.hostPath(), h.name))
		}
	}
	slices.Sort(all)
	return all, nil
}
