package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	if err := c.findMoved(t.root, "."); err != nil { // the layers' path of the root
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

// hasLower tells whether the layers have a part in the directory n.
func hasLower(n *Node) bool {
	return slices.ContainsFunc(n.dir.stack, func(part *hostDir) bool { return !part.layer.edit })
}

// from is where the layers have the directory n, which is name in dir: under the
// same name, unless the edits say otherwise. They have dir at was.
func (c *comparison) from(n, dir *Node, name, was string) (path string, moved bool, err error) {
	natural := join(was, name)
	if n.dir == nil || !hasLower(n) {
		return natural, false, nil
	}
	f, err := step(dir.dir.stack, name)
	if err != nil || f.redirect == "" {
		return natural, false, err
	}
	path = strings.Trim(f.redirect, "/")
	return path, path != natural, nil
}

// findMoved collects where renamed directories came from, so that they aren't
// listed as deleted there. They have dir at was.
func (c *comparison) findMoved(dir *Node, was string) error {
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
			var from string
			var moved bool
			if from, moved, err = c.from(n, dir, name, was); err == nil {
				c.moved[from] = c.moved[from] || moved
				err = c.findMoved(n, from)
			}
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
	return c.dir(c.tree.root, c.layers.root, ".", ".")
}

// dir compares a directory that has a part in the edits with its layers' part
// below, at was there, nil for none.
func (c *comparison) dir(n, below *Node, path, was string) error {
	names, err := editedNames(n)
	if err != nil {
		return err
	}
	for _, name := range names {
		lower, err := c.below(below, name)
		if err != nil {
			return err
		}
		err = c.entry(n, name, lower, join(path, name), was)
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

func (c *comparison) deleted(lower *Node, path, was string) error {
	if lower == nil || c.moved[was] {
		return nil
	}
	return c.yield(Difference{Kind: Deleted, Path: path, Layer: c.layers.Origin(lower)})
}

// entry compares one name that the edits have something for. The layers have dir
// at was.
func (c *comparison) entry(dir *Node, name string, lower *Node, path, was string) error {
	n, err := c.tree.Lookup(dir, name, nil)
	if errors.Is(err, unix.ENOENT) {
		return c.deleted(lower, path, join(was, name))
	}
	if err != nil {
		return err
	}
	defer c.tree.Release(n, 1)
	if n.dir != nil && !n.upper().layer.edit {
		return nil
	}
	d := Difference{Path: path}
	from, moved, err := c.from(n, dir, name, was)
	if err != nil {
		return err
	}
	if moved {
		d.From = from
		if lower, err = c.lookup(from); err != nil {
			return err
		}
	}
	if lower != nil {
		d.Layer = c.layers.Origin(lower)
	}
	if d.Kind, err = c.kind(n, lower, moved); err != nil {
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
	return c.dir(n, lower, path, from)
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
		if !hasLower(n) {
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
