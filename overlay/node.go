package overlay

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Node is one inode of a tree. A method that returns a Node adds a reference
// to it, which [Tree.Release] gives back; a file that is removed keeps its
// content until then. There are as many as files that somebody has looked at,
// so what few of them have is in maps of the tree.
type Node struct {
	// Tag is free for the use of whoever serves the tree.
	Tag atomic.Uint32

	refs atomic.Int32 // the caller's, and one for each known child

	// fh is the content's descriptor, made when first needed.
	fh atomic.Pointer[handle]

	ino     uint64
	hostIno uint64 // see Layer.hostIno; the key in Tree.links, when linked
	typ     uint32 // S_IFMT bits
	state   atomic.Uint32

	// parent and name are the name that the node is known by. A file with
	// several has only one of them here; one with none has no parent.
	parent *Node
	name   string

	// part is the directory of the host that has the file, by that name unless
	// it is elsewhere. nil for directories, which have a stack of them, and for
	// a file that the host has no name for.
	part *hostDir

	dir *directory // only for directories
}

// States of a node; they are set under Tree.mu and read anywhere.
const (
	orphan     uint32 = 1 << iota // its content is in the edits, without a name
	dead                          // its last name is gone
	linked                        // it is in Tree.links
	tmpfile                       // it never had a name, and may get one
	overridden                    // it is in Tree.overridden
	elsewhere                     // its name on the host is in Tree.hostNames

	// The bits from here on are the Tree.epoch in which the node became part
	// of the newest edits; 0 for one that never was.
	epochShift = 16
)

// place is where an entry is on the host.
type place struct {
	dir  *hostDir
	name string
}

// at returns where the host has the file n.
func (n *Node) at() place { return place{n.part, n.hostName()} }

// hostName is what the host calls the file n.
func (n *Node) hostName() string {
	if !n.is(elsewhere) {
		return n.name
	}
	t := n.part.layer.tree
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	return t.hostNames[n]
}

// put notes where the host has the file n, and call by which name the tree knows
// the node n. t.mu is held exclusively, or n is new.
func (t *Tree) put(n *Node, at place) {
	n.part = at.dir
	if at.dir == nil || at.name == n.name {
		if n.is(elsewhere) {
			n.unset(elsewhere)
			t.rareMu.Lock()
			delete(t.hostNames, n)
			t.rareMu.Unlock()
		}
		return
	}
	n.set(elsewhere)
	t.rareMu.Lock()
	t.hostNames[n] = at.name
	t.rareMu.Unlock()
}

func (t *Tree) call(n, dir *Node, name string) {
	at := n.at()
	n.parent, n.name = dir, name
	t.put(n, at)
}

func (n *Node) is(s uint32) bool { return n.state.Load()&s != 0 }
func (n *Node) set(s uint32)     { n.state.Or(s) }
func (n *Node) unset(s uint32)   { n.state.And(^s) }

// inEdits tells whether the node's content or directory is in the newest edits,
// so that it can be changed where it is.
func (t *Tree) inEdits(n *Node) bool {
	s := n.state.Load()
	return s&(orphan|dead) == orphan|dead || s>>epochShift == t.epoch.Load()
}

// setInEdits notes that it is. t.mu is held exclusively, or n is new.
func (t *Tree) setInEdits(n *Node) {
	n.state.Store(n.state.Load()&(1<<epochShift-1) | t.epoch.Load()<<epochShift)
}

// Type returns the node's type as the S_IFMT bits of st_mode.
func (n *Node) Type() uint32 { return n.typ }

// linkKey identifies a host inode with several names within a layer; layer is
// nil for the edits and their checkpoints. Between
// layers there are no links, even where a store has joined equal files.
type linkKey struct {
	layer *Layer
	ino   uint64
}

func (n *Node) linkKey() linkKey {
	if n.part == nil || n.part.layer.edit {
		return linkKey{nil, n.hostIno} // one filesystem holds all edits
	}
	return linkKey{n.part.layer, n.hostIno}
}

// path returns the node's path in the tree, for messages; "." for the root.
func (n *Node) path() string {
	switch {
	case n.parent == nil && n.dir != nil && !n.is(dead):
		return "."
	case n.parent == nil:
		return "(deleted)"
	}
	return join(n.parent.path(), n.name)
}

// attached tells whether the directory n is in the tree: neither it nor one above
// has been removed. t.mu is held.
func (t *Tree) attached(n *Node) bool {
	for n != nil && n != t.root {
		n = n.parent
	}
	return n != nil
}

// Lookup returns the entry name of dir, with its attributes in e unless that
// is nil. It returns ENOENT when there is none, or ErrLost.
func (t *Tree) Lookup(dir *Node, name string, e *Entry) (*Node, error) {
	t.mu.RLock()
	n, err := t.find(dir, name, e, false)
	t.mu.RUnlock()
	if !errors.Is(err, errNamed) {
		return n, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lookup(dir, name, e)
}

// ErrLost is the ENOENT of an entry that a layer lost just now: the event is on its
// way, and it may be there again before that is taken in.
var ErrLost = fmt.Errorf("lost just now: %w", unix.ENOENT)

// errNamed says that a node without a name would get one, which takes t.mu
// exclusively: what there is of it is read by others with t.mu shared.
var errNamed = errors.New("a node gets a name")

// lookup is Lookup for who holds t.mu exclusively.
func (t *Tree) lookup(dir *Node, name string, e *Entry) (*Node, error) {
	return t.find(dir, name, e, true)
}

func (t *Tree) find(dir *Node, name string, e *Entry, exclusively bool) (*Node, error) {
	d := dir.dir
	if d == nil {
		return nil, unix.ENOTDIR
	}
	if len(name) > unix.NAME_MAX {
		return nil, unix.ENAMETOOLONG
	}
	d.mu.Lock()
	if err := t.load(dir); err != nil {
		d.mu.Unlock()
		return nil, err
	}
	ent := d.alive(name)
	if ent == nil {
		d.mu.Unlock()
		return nil, unix.ENOENT
	}
	n, layer := ent.node, ent.layer
	if n != nil {
		n.refs.Add(1)
	}
	d.mu.Unlock()
	var a attrs
	if n == nil {
		var err error
		if n, err = t.known(dir, name, layer, &a, exclusively); err != nil {
			return nil, err
		}
	} else if e != nil {
		if err := t.attrs(n, &a); err != nil {
			t.unref(n)
			if errors.Is(err, unix.ESTALE) {
				err = ErrLost
			}
			return nil, err
		}
	}
	if e != nil {
		n.fill(e, &a)
	}
	return n, nil
}

// known makes the node of a name that has none yet, or finds the one that
// another of its names has made. It fills a.
func (t *Tree) known(dir *Node, name string, l *Layer, a *attrs, exclusively bool) (*Node, error) {
	d := dir.dir
	n, err := t.makeNode(d, name, l, a)
	if err != nil {
		return nil, err
	}
	n.refs.Store(1)
	if n.dir == nil && t.mayBeKnown(n, a) {
		known, err := t.knownLink(dir, name, n, exclusively)
		if known != n {
			t.put(n, place{})
		}
		return known, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ent := d.alive(name)
	if ent.node != nil { // another looked at the same time
		t.put(n, place{})
		ent.node.refs.Add(1)
		return ent.node, nil
	}
	t.adopt(dir, name, n)
	t.override(n, t.wordOn(d, n, name))
	ent.node = n
	if n.dir != nil && t.watch != nil {
		t.watch.add(n)
		// What it was before it was watched may not be so any more.
		var now attrs
		if n.dirAttrs(&now) == nil {
			*a = now
		}
	}
	return n, nil
}

// mayBeKnown tells whether a file may have a node by another name: it has more
// names, or had. A copy may have its index entry as the only name on the host,
// and more in the layers.
func (t *Tree) mayBeKnown(n *Node, a *attrs) bool {
	if a.st.Nlink > 1 || a.m.nlink != 0 {
		return true
	}
	t.linkMu.Lock()
	defer t.linkMu.Unlock()
	return t.links[n.linkKey()] != nil
}

// knownLink returns the one node of a file with several names. n is a new one
// for it.
func (t *Tree) knownLink(dir *Node, name string, n *Node, exclusively bool) (*Node, error) {
	t.linkMu.Lock()
	defer t.linkMu.Unlock()
	key := n.linkKey()
	old := t.links[key]
	if old != nil && (old.part == nil || old.parent == nil) && !exclusively {
		return nil, errNamed
	}
	if old == nil {
		n.set(linked)
		t.override(n, t.wordOn(dir.dir, n, name))
		t.links[key] = n
		old = n
	} else {
		old.refs.Add(1)
		if old.part == nil { // its other name was removed
			t.put(old, n.at())
			old.unset(orphan)
			t.loosen(old)
			if n.part.layer == t.edits {
				t.setInEdits(old)
			}
		}
	}
	if old.parent == nil {
		old.unset(dead)
		t.adopt(dir, name, old)
		dir.dir.mu.Lock()
		dir.dir.alive(name).node = old
		dir.dir.mu.Unlock()
	} else if !n.part.layer.edit && (old.parent != dir || old.name != name) {
		t.names.add(old, dir, name)
	}
	return old, nil
}

// adopt makes dir and name the ones that n is known by.
func (t *Tree) adopt(dir *Node, name string, n *Node) {
	t.call(n, dir, name)
	dir.refs.Add(1)
}

// makeNode reads what the host has of name, whose topmost entry is in the
// layer l. The node is not yet part of the tree.
func (t *Tree) makeNode(d *directory, name string, l *Layer, a *attrs) (*Node, error) {
	part := t.ahead.take(d, name, l, a)
	if part == nil {
		var err error
		if part, err = d.part(name, l, a); err != nil {
			return nil, err
		}
	}
	n := &Node{typ: a.m.mode & unix.S_IFMT, hostIno: part.layer.hostIno(&a.st), name: name, part: part}
	if part.layer == t.edits {
		t.setInEdits(n)
	}
	if n.typ != unix.S_IFDIR {
		// A frozen file may have lost its other names on the host.
		if part.layer != t.edits && (a.st.Nlink > 1 || part.layer.edit) {
			if err := t.fromIndex(n, a); err != nil {
				t.put(n, place{})
				return nil, err
			}
		}
		n.ino = n.number(a)
		return n, nil
	}
	f, err := stepKnowing(d.stack, name, part, &a.st)
	if err != nil {
		return nil, err
	}
	if len(f.dirs) == 0 {
		return nil, unix.ENOENT
	}
	n.dir = &directory{stack: f.dirs}
	n.dir.overrides = t.overridesIn(d, name, f.redirect)
	n.part = nil
	if p := n.attrPart(); p.parent != part || p.name != name {
		if _, err := p.parent.look(p.name, a); err != nil {
			return nil, err
		}
		part = p.parent
	}
	n.ino = a.m.origin
	if n.ino == 0 {
		n.ino = part.layer.ino(&a.st)
	}
	return n, nil
}

// overridesIn is the manifest's word on what is in the directory name of d.
func (t *Tree) overridesIn(d *directory, name, redirect string) *overrides {
	if redirect != "" {
		return t.overrides.at(redirect)
	}
	return d.overrides.child(name)
}

// number is the inode number of what a describes.
func (n *Node) number(a *attrs) uint64 {
	if a.m.origin != 0 {
		return a.m.origin
	}
	return n.part.layer.ino(&a.st)
}

// part finds the directory of the stack that has name in the layer l: two
// may be of the same layer (links.go), the layer's own first.
func (d *directory) part(name string, l *Layer, a *attrs) (*hostDir, error) {
	for _, p := range d.stack {
		if p.layer != l {
			continue
		}
		ok, err := p.look(name, a)
		if err != nil {
			return nil, err
		}
		if ok {
			return p, nil
		}
	}
	return nil, unix.ENOENT
}

// Release gives back refs references to n.
func (t *Tree) Release(n *Node, refs uint64) {
	if n.refs.Add(-int32(refs)) > 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(n)
}

// ReleaseAll gives back a reference to each of the nodes, at the price of one
// release.
func (t *Tree) ReleaseAll(nodes []*Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range nodes {
		n.refs.Add(-1)
		t.drop(n)
	}
}

// unref gives back one reference, which is not the last or is taken up again
// before the lock is: t.mu is held in either way.
func (t *Tree) unref(n *Node) { n.refs.Add(-1) }

// drop forgets a node that nobody refers to. t.mu is held.
func (t *Tree) drop(n *Node) {
	for n != nil && n != t.root && n.refs.Load() <= 0 {
		parent := n.parent
		if parent != nil {
			parent.dir.mu.Lock()
			if ent := parent.dir.alive(n.name); ent != nil && ent.node == n {
				ent.node = nil
			}
			parent.dir.mu.Unlock()
		}
		t.forget(n)
		n.parent = nil
		if parent == nil || parent.refs.Add(-1) > 0 {
			return
		}
		n = parent
	}
}

// forget closes what n keeps open.
func (t *Tree) forget(n *Node) {
	t.unregister(n)
	if h := n.fh.Swap(nil); h != nil {
		t.files.retire(h)
	}
	t.override(n, nil)
	t.put(n, place{})
	if n.dir == nil {
		return
	}
	if t.watch != nil {
		t.watch.remove(n, n.dir.stack)
	}
	for _, part := range n.dir.stack {
		t.giveBack(n, part) // or it would stay until others need the place
	}
	if n.is(dead) && n.upper().layer.edit {
		t.dirs.retire(&n.upper().h)
	}
}
