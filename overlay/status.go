package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Kind says how the edits differ from the layers in one entry.
type Kind byte

// The kinds of a [Difference].
const (
	Added    Kind = 'A' // no layer has it
	Modified Kind = 'M' // other content
	Metadata Kind = 'm' // the same content with other owner, mode, time or attributes
	Deleted  Kind = 'D'
	Renamed  Kind = 'R' // a directory, moved with what is in it
	Replaced Kind = 'T' // another type, or an emptied directory
)

// String returns the kind's letter.
func (k Kind) String() string { return string(k) }

// Difference is one entry in which the edits differ from the layers.
type Difference struct {
	Kind  Kind
	Path  string // relative to the root
	From  string // the path in the layers, of a Renamed directory
	Layer string // that has the entry below; "" for an Added one
}

// comparison walks the directories that the edits have a part in.
type comparison struct {
	tree, layers *Tree
	moved        map[string]bool // paths in the layers of renamed directories
	yield        func(Difference) error
}

// Status calls yield with each difference between the tree and its layers,
// directories before what is in them, names in order. It reads only what the
// edits touch.
func (t *Tree) Status(yield func(Difference) error) error {
	if t.edits == nil {
		return nil
	}
	layers, err := Open(t.project, Options{ReadOnly: true, WithoutEdits: true, Logger: t.log})
	if err != nil {
		return err
	}
	defer layers.Close() //nolint:errcheck // only read
	c := &comparison{tree: t, layers: layers, moved: make(map[string]bool), yield: yield}
	if err := c.findMoved(t.root, "."); err != nil {
		return err
	}
	return c.root()
}

// editedNames returns the names that the edits' parts of n have, sorted.
func editedNames(n *Node) ([]string, error) {
	var all []string
	for _, part := range n.dir.stack {
		if !part.layer.edit {
			continue
		}
		names, err := readNames(part)
		if err != nil {
			return nil, err
		}
		for _, h := range names {
			all = append(all, h.name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// lowerPath is where the layers have the directory n; "" when they don't.
func lowerPath(n *Node) string {
	for _, part := range n.dir.stack {
		if !part.layer.edit {
			return part.path()
		}
	}
	return ""
}

// findMoved collects where renamed directories came from, so that they aren't
// listed as deleted there.
func (c *comparison) findMoved(dir *Node, path string) error {
	names, err := editedNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := c.tree.Lookup(dir, name, nil)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		if n.dir != nil && n.upper().layer.edit {
			if from := lowerPath(n); from != "" && from != join(lowerPath(dir), name) {
				c.moved[from] = true
			}
			err = c.findMoved(n, join(path, name))
		}
		c.tree.Release(n, 1)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) root() error {
	if same, err := c.sameMeta(c.tree.root, c.layers.root); err != nil {
		return err
	} else if !same {
		if err := c.yield(Difference{Kind: Metadata, Path: ".", Layer: c.layers.Origin(c.layers.root)}); err != nil {
			return err
		}
	}
	return c.dir(c.tree.root, c.layers.root, ".")
}

// dir compares a directory that has a part in the edits with its layers' part
// below, nil for none.
func (c *comparison) dir(n, below *Node, path string) error {
	names, err := editedNames(n)
	if err != nil {
		return err
	}
	for _, name := range names {
		lower, err := c.below(below, name)
		if err != nil {
			return err
		}
		err = c.entry(n, name, lower, join(path, name))
		if lower != nil {
			c.layers.Release(lower, 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) below(dir *Node, name string) (*Node, error) {
	if dir == nil || dir.dir == nil {
		return nil, nil
	}
	n, err := c.layers.Lookup(dir, name, nil)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return n, err
}

func (c *comparison) deleted(lower *Node, path string) error {
	if lower == nil || c.moved[path] {
		return nil
	}
	return c.yield(Difference{Kind: Deleted, Path: path, Layer: c.layers.Origin(lower)})
}

// entry compares one name that the edits have something for.
func (c *comparison) entry(dir *Node, name string, lower *Node, path string) error {
	n, err := c.tree.Lookup(dir, name, nil)
	if errors.Is(err, unix.ENOENT) {
		return c.deleted(lower, path)
	}
	if err != nil {
		return err
	}
	defer c.tree.Release(n, 1)
	if n.dir != nil && !n.upper().layer.edit {
		return nil
	}
	d := Difference{Path: path}
	if n.dir != nil {
		if from := lowerPath(n); from != "" && from != join(lowerPath(dir), name) {
			d.From = from
			if lower, err = c.lookup(from); err != nil {
				return err
			}
		}
	}
	if lower != nil {
		d.Layer = c.layers.Origin(lower)
	}
	if d.Kind, err = c.kind(n, lower, d.From != ""); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if d.Kind != 0 {
		if err := c.yield(d); err != nil {
			return err
		}
	}
	if n.dir == nil {
		return nil
	}
	if d.Kind == Replaced {
		lower = nil
	}
	return c.dir(n, lower, path)
}

// lookup finds a path in the layers, nil when it is gone.
func (c *comparison) lookup(path string) (*Node, error) {
	n := c.layers.root
	for _, name := range splitAll(path) {
		var err error
		if n, err = c.below(n, name); n == nil || err != nil {
			return nil, err
		}
	}
	return n, nil
}

// kind says how n differs from lower; 0 for not at all.
func (c *comparison) kind(n, lower *Node, renamed bool) (Kind, error) {
	switch {
	case renamed:
		return Renamed, nil
	case lower == nil:
		return Added, nil
	case n.typ != lower.typ:
		return Replaced, nil
	case n.dir != nil:
		if lowerPath(n) == "" {
			return Replaced, nil // opaque
		}
	default:
		if same, err := c.sameContent(n, lower); err != nil || !same {
			return Modified, err
		}
	}
	if same, err := c.sameMeta(n, lower); err != nil || !same {
		return Metadata, err
	}
	return 0, nil
}

// sameMeta compares what copy-up keeps. A directory's times follow its names.
func (c *comparison) sameMeta(n, lower *Node) (bool, error) {
	var a, b Entry
	if err := errors.Join(c.tree.Stat(n, &a), c.layers.Stat(lower, &b)); err != nil {
		return false, err
	}
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || n.dir == nil && a.Mtime != b.Mtime {
		return false, nil
	}
	ax, err := c.tree.Xattrs(n)
	if err != nil {
		return false, err
	}
	bx, err := c.layers.Xattrs(lower)
	return slices.EqualFunc(ax, bx, func(a, b Xattr) bool {
		return a.Name == b.Name && bytes.Equal(a.Value, b.Value)
	}), err
}

// sameContent compares files, links and devices of one type.
func (c *comparison) sameContent(n, lower *Node) (bool, error) {
	var a, b Entry
	if err := errors.Join(c.tree.Stat(n, &a), c.layers.Stat(lower, &b)); err != nil {
		return false, err
	}
	if a.Size != b.Size || a.Rdev != b.Rdev {
		return false, nil
	}
	switch n.typ {
	case unix.S_IFLNK:
		x, err := c.tree.Readlink(n)
		if err != nil {
			return false, err
		}
		y, err := c.layers.Readlink(lower)
		return x == y, err
	case unix.S_IFREG:
		return c.sameBytes(n, lower, a.Size)
	}
	return true, nil
}

func (c *comparison) sameBytes(n, lower *Node, size int64) (bool, error) {
	const step = 256 << 10
	x, y := make([]byte, min(step, size)), make([]byte, min(step, size))
	for off := int64(0); off < size; off += step {
		i, err := c.tree.Read(n, x, off)
		if err != nil {
			return false, err
		}
		j, err := c.layers.Read(lower, y, off)
		if err != nil || !bytes.Equal(x[:i], y[:j]) {
			return false, err
		}
	}
	return true, nil
}
