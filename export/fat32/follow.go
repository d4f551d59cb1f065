package fat32

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHops is how many symlinks one lookup follows, as Linux does (MAXSYMLINKS).
const maxHops = 40

// find returns the entry of a name, nil if there is none.
func (l *listing) find(name string) *node {
	i, found := slices.BinarySearchFunc(l.nodes, name, func(n *node, name string) int {
		return strings.Compare(n.name, name)
	})
	if !found {
		return nil
	}
	return l.nodes[i]
}

// follow returns what a symlink leads to in the tree, which is no symlink, or
// why it leads nowhere.
func follow(link, root *node) (n *node, reason string) {
	at, rest := link.parent, link.data.(string)
	if strings.HasPrefix(rest, "/") {
		at = root
	}
	for hops, more := 1, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		list, ok := at.data.(*listing)
		if !ok {
			return nil, nowhere(link)
		}
		var next *node
		switch name {
		case "", ".":
			next = at
		case "..":
			next = at.parent
			if next == nil {
				next = root
			}
		default:
			next = list.find(name)
		}
		if next == nil {
			return nil, nowhere(link)
		}
		if next.kind() != unix.S_IFLNK {
			at = next
			continue
		}
		if hops++; hops > maxHops {
			return nil, fmt.Sprintf("a symlink to %q, over more than %d symlinks", link.data, maxHops)
		}
		target := next.data.(string)
		if strings.HasPrefix(target, "/") {
			at = root
		}
		if more {
			target += "/" + rest
		}
		rest, more = target, true
	}
	return at, ""
}

func nowhere(link *node) string {
	return fmt.Sprintf("a symlink to %q, which the tree doesn't have", link.data)
}
