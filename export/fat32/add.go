package fat32

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// node is an entry of the tree. There is one for each, so it is kept small.
type node struct {
	name   string
	parent *node // its directory; nil for the root
	data   any   // overlay.Content, *listing or the symlink's target as a string
	size   int64
	mtime  timestamp
	mode   uint16
	sparse bool // may have holes
}

// listing is what a directory holds, sorted by name.
type listing struct{ nodes []*node }

// openDir is a directory that a walk is in.
type openDir struct {
	path string
	node *node
}

func (n *node) kind() uint32 { return uint32(n.mode) & unix.S_IFMT }
func (n *node) isDir() bool  { return n.kind() == unix.S_IFDIR }

// Open implements [overlay.Content].
func (n *node) Open() (*overlay.File, error) { return n.data.(overlay.Content).Open() }

// String returns the path, by which errors name the file.
func (n *node) String() string {
	if n.parent == nil {
		return "."
	}
	s := n.name
	for d := n.parent; d.parent != nil; d = d.parent {
		s = d.name + "/" + s
	}
	return s
}

// Add adds an entry, in the order of a walk: the root, ".", first; what a
// directory holds after it, before anything else, in bytewise order of the
// names. e may be reused afterwards, what it refers to is kept. Errors name
// the path: they are about the entry or its order, not about what FAT can
// hold, which [Planner.Plan] tells.
func (p *Planner) Add(e *overlay.Entry) error {
	if p.planned {
		return fmt.Errorf("%s: added after the image was planned", e.Path)
	}
	if err := p.add(e); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	p.identify(e)
	return nil
}

func (p *Planner) add(e *overlay.Entry) error {
	dir, name, err := p.locate(e)
	if err != nil {
		return err
	}
	n := p.newNode()
	*n = node{name: strings.Clone(name), parent: dir, mode: uint16(e.Mode), mtime: timestampOf(e.Mtime)}
	switch {
	case e.IsDir():
		n.data = &listing{}
		p.open = append(p.open, openDir{e.Path, n})
	case e.IsSymlink():
		n.data = e.Target
	case e.IsRegular():
		if e.Size < 0 || e.Size > 0 && e.Content == nil {
			return fmt.Errorf("a file of %d bytes without content", e.Size)
		}
		n.size, n.data = e.Size, e.Content
		n.sparse = e.Blocks < (e.Size+511)/512
	}
	if dir != nil {
		list := dir.data.(*listing)
		list.nodes = append(list.nodes, n)
	}
	p.entries++
	p.noteAttributes(e)
	return nil
}

// locate finds the directory that an entry is in, which for the root is nil,
// and leaves those that the walk has left.
func (p *Planner) locate(e *overlay.Entry) (dir *node, name string, err error) {
	if e.Path == "." {
		if len(p.open) > 0 || !e.IsDir() {
			return nil, "", fmt.Errorf("the root is one directory")
		}
		return nil, "", nil
	}
	parent, name := ".", e.Path
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		parent, name = name[:i], name[i+1:]
	}
	if name == "" || name == ".." || e.Path != path.Clean(e.Path) || strings.IndexByte(name, 0) >= 0 {
		return nil, "", fmt.Errorf("not the path of an entry: %q", e.Path)
	}
	depth := len(p.open)
	for depth > 0 && p.open[depth-1].path != parent {
		depth--
	}
	if depth == 0 {
		return nil, "", fmt.Errorf("its directory was not added just before it")
	}
	p.open = p.open[:depth]
	dir = p.open[depth-1].node
	if nodes := dir.data.(*listing).nodes; len(nodes) > 0 && nodes[len(nodes)-1].name >= name {
		return nil, "", fmt.Errorf("added after %q, out of order", nodes[len(nodes)-1].name)
	}
	return dir, name, nil
}

// newNode takes a node from a batch, which is faster than one at a time.
func (p *Planner) newNode() *node {
	if len(p.unused) == 0 {
		p.unused = make([]node, 64)
	}
	n := &p.unused[0]
	p.unused = p.unused[1:]
	return n
}

// identify adds what an image has of an entry to the digest that the volume's
// identifier comes from.
func (p *Planner) identify(e *overlay.Entry) {
	b := append(append(p.scratch[:0], e.Path...), 0)
	b = le.AppendUint32(b, e.Mode)
	b = le.AppendUint32(b, e.Mtime.Nsec)
	b = le.AppendUint64(b, uint64(e.Mtime.Sec))
	b = le.AppendUint64(b, uint64(e.Size))
	b = append(append(b, e.Target...), 0)
	p.digest.Write(b)
	p.scratch = b
}
