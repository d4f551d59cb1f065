package overlay

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Amount is a number of regular files and their bytes.
type Amount struct{ Files, Bytes int64 }

func (a *Amount) add(b Amount) { a.Files, a.Bytes = a.Files+b.Files, a.Bytes+b.Bytes }

// Sizes is where the bytes of a directory are.
type Sizes struct {
	Layers map[string]Amount // by layer that shows the file
	Names  map[string]Amount // by name in the directory, with what is below
	Total  Amount
}

// Sizes adds up what the tree shows at a path, relative to the root; "." for
// all. A file with several names counts once.
func (t *Tree) Sizes(path string) (*Sizes, error) {
	c := &counting{tree: t, sizes: &Sizes{Layers: make(map[string]Amount), Names: make(map[string]Amount)}, seen: make(map[uint64]bool)}
	if len(splitAll(path)) == 0 {
		return c.sizes, c.top(t.root)
	}
	return c.sizes, t.byPath(path, c.top)
}

// counting walks a tree for its sizes.
type counting struct {
	tree  *Tree
	sizes *Sizes
	seen  map[uint64]bool // inodes with several names
}

func (c *counting) top(n *Node) error {
	if n.dir == nil {
		return unix.ENOTDIR
	}
	return c.each(n, func(name string, child *Node, e *Entry) error {
		sum, err := c.below(child, e)
		c.sizes.Names[name] = sum
		c.sizes.Total.add(sum)
		return err
	})
}

// below adds up a node and what is below it.
func (c *counting) below(n *Node, e *Entry) (sum Amount, err error) {
	switch {
	case e.IsDir():
		err = c.each(n, func(_ string, child *Node, e *Entry) error {
			part, err := c.below(child, e)
			sum.add(part)
			return err
		})
	case e.IsRegular():
		if e.Nlink > 1 {
			if c.seen[e.Ino] {
				return sum, nil
			}
			c.seen[e.Ino] = true
		}
		sum = Amount{1, e.Size}
		of := c.sizes.Layers[e.Layer]
		of.add(sum)
		c.sizes.Layers[e.Layer] = of
	}
	return sum, err
}

// each calls do with what is in a directory.
func (c *counting) each(dir *Node, do func(name string, n *Node, e *Entry) error) error {
	var names []string
	buf := make([]DirEntry, 256)
	for cookie := uint64(0); ; {
		k, err := c.tree.ReadDir(dir, cookie, buf)
		if err != nil {
			return err
		}
		for _, e := range buf[:k] {
			names, cookie = append(names, e.Name), e.Cookie
		}
		if k < len(buf) {
			break
		}
	}
	slices.Sort(names)
	for _, name := range names {
		var e Entry
		n, err := c.tree.Lookup(dir, name, &e)
		if errors.Is(err, unix.ENOENT) {
			continue // its layer lost it since
		}
		if err != nil {
			return err
		}
		err = do(name, n, &e)
		c.tree.Release(n, 1)
		if err != nil {
			return err
		}
	}
	return nil
}
