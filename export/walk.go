package export

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Walk calls visit with every entry of the tree: the root, ".", first, each
// directory before what is in it, names in bytewise order. Times later than
// epoch become epoch, unless that is nil (reproducible-builds.org,
// SOURCE_DATE_EPOCH). visit is called by one goroutine, while others read
// ahead. The entry is used again for the next one; what it refers to stays.
func Walk(ctx context.Context, t *overlay.Tree, epoch *overlay.Time, visit func(*overlay.Entry) error) error {
	w := &walker{tree: t, epoch: epoch, visit: visit}
	w.ahead.start(w)
	defer w.ahead.stop()
	var root overlay.Entry
	if err := t.Stat(t.Root(), &root); err != nil {
		return err
	}
	if err := w.complete(t.Root(), &root, "."); err != nil {
		return err
	}
	if err := visit(&root); err != nil {
		return err
	}
	err := w.folder(ctx, &part{node: t.Root()})
	t.ReleaseAll(w.visited)
	return err
}

// walker visits a tree for its writers.
type walker struct {
	tree  *overlay.Tree
	epoch *overlay.Time
	visit func(*overlay.Entry) error
	ahead readAhead

	visited []*overlay.Node // to be released
	buffers sync.Pool       // of *buffers
}

// partSize is how many entries of a directory are read at a time.
const partSize = 512

// part is what is read of a directory at a time: all of it, unless it is a
// large one.
type part struct {
	node   *overlay.Node // the directory
	prefix string        // its path with a slash
	state  partState

	names []string // nil in a first part, until the directory is listed
	next  *part    // of the same directory

	*buffers
	folders []*part // the first parts of the entries that are directories
}

// buffers are what a part has from its reading to the end of its visit.
type buffers struct {
	listed  []string // names of the whole directory, in its first part
	entries []overlay.Entry
	nodes   []*overlay.Node
}

// folder visits what is in a directory.
func (w *walker) folder(ctx context.Context, first *part) error {
	for p := first; p != nil; p = p.next {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.ahead.need(p); err != nil {
			return err
		}
		err := w.entries(ctx, p)
		w.release(p.nodes)
		if err != nil {
			return err
		}
		if p != first {
			w.reuse(p)
		}
	}
	w.reuse(first) // last, since all parts have their names from its buffers
	return nil
}

// reuse keeps a part's buffers for another one, but for a large directory's
// names.
func (w *walker) reuse(p *part) {
	b := p.buffers
	p.buffers = nil
	if cap(b.listed) > partSize {
		b.listed = nil
	}
	clear(b.listed)
	clear(b.entries[:cap(b.entries)])
	clear(b.nodes[:cap(b.nodes)])
	w.buffers.Put(b)
}

// entries visits the entries of a part.
func (w *walker) entries(ctx context.Context, p *part) error {
	folders := p.folders
	for i := range p.entries {
		e := &p.entries[i]
		isDir := e.IsDir()
		if err := w.visit(e); err != nil {
			return err
		}
		if isDir {
			if err := w.folder(ctx, folders[0]); err != nil {
				return err
			}
			folders = folders[1:]
		}
	}
	return nil
}

// manyNodes is how many are released at a time: who releases waits for the
// goroutines that read.
const manyNodes = 4096

// release gives nodes back, now or later.
func (w *walker) release(nodes []*overlay.Node) {
	w.visited = append(w.visited, nodes...)
	if len(w.visited) >= manyNodes {
		w.tree.ReleaseAll(w.visited)
		w.visited = w.visited[:0]
	}
}

// load reads a part's entries, after listing the directory if p is its first
// part. listed is called when the next part is known.
func (w *walker) load(p *part, listed func()) error {
	p.buffers, _ = w.buffers.Get().(*buffers)
	if p.buffers == nil {
		p.buffers = new(buffers)
	}
	if p.names == nil {
		if err := w.list(p); err != nil {
			return err
		}
	}
	if p.next != nil {
		listed()
	}
	return w.read(p)
}

// list lists the directory that p is the first part of, and makes the others.
func (w *walker) list(p *part) error {
	names := p.listed[:0]
	var buf [256]overlay.DirEntry
	for cookie := uint64(0); ; {
		n, err := w.tree.ReadDir(p.node, cookie, buf[:])
		if err != nil {
			return err
		}
		for _, e := range buf[:n] {
			names, cookie = append(names, e.Name), e.Cookie
		}
		if n < len(buf) {
			break
		}
	}
	if !slices.IsSorted(names) { // new names of a tree that is being edited
		slices.SortFunc(names, strings.Compare)
	}
	p.listed = names
	for p.names = names; len(p.names) > partSize; p = p.next {
		p.next = &part{node: p.node, prefix: p.prefix, names: p.names[partSize:]}
		p.names = p.names[:partSize]
	}
	return nil
}

// read reads the entries of a part.
func (w *walker) read(p *part) error {
	p.entries = slices.Grow(p.entries[:0], len(p.names))[:len(p.names)]
	p.nodes = p.nodes[:0]
	for i, name := range p.names {
		n, err := w.tree.Lookup(p.node, name, &p.entries[i])
		if err == nil {
			p.nodes = append(p.nodes, n)
			err = w.complete(n, &p.entries[i], p.prefix+name)
		}
		if err != nil {
			return fmt.Errorf("%s%s: %w", p.prefix, name, err)
		}
		if p.entries[i].IsDir() {
			p.folders = append(p.folders, &part{node: n, prefix: p.prefix + name + "/"})
		}
	}
	return nil
}

// complete adds to an entry what Lookup leaves out.
func (w *walker) complete(n *overlay.Node, e *overlay.Entry, path string) (err error) {
	e.Path = path
	if e.IsRegular() {
		e.Content = w.tree.Content(n)
	}
	if e.IsSymlink() {
		if e.Target, err = w.tree.Readlink(n); err != nil {
			return err
		}
	}
	if e.Xattrs, err = w.tree.Xattrs(n); err != nil {
		return err
	}
	if w.epoch != nil {
		for _, t := range []*overlay.Time{&e.Atime, &e.Mtime, &e.Ctime} {
			if w.epoch.Before(*t) {
				*t = *w.epoch
			}
		}
	}
	return nil
}
