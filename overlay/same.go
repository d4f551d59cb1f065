package overlay

import "slices"

// SameParts tells whether two nodes, each of a tree of the same project, are made
// of the same files of the host: they show the same, and so does all that is below
// them.
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
