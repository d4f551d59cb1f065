package overlay

import (
	"context"
	"errors"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// news collects what changed in the tree without the tree's doing, to be
// announced when no lock is held.
type news struct {
	names []newName
	nodes []*Node
}

type newName struct {
	dir  *Node
	name string
}

func (w *news) name(dir *Node, name string) { w.names = append(w.names, newName{dir, name}) }
func (w *news) node(n *Node)                { w.nodes = append(w.nodes, n) }

// renew reads the directory n again, which now has the given stack. touched
// are the names that may stand for something else than before; nil for all,
// and then for all below them. What can't be read stays as it was, and the rest is
// renewed. t.mu is held exclusively.
func (t *Tree) renew(n *Node, stack []*hostDir, touched map[string]bool, out *news) error {
	d := n.dir
	if len(stack) > 0 && n.upper().layer == t.edits && stack[0].layer == t.edits {
		stack[0] = n.upper() // which its children's places refer to
	}
	t.restack(n, stack)
	out.node(n)
	if t.watch != nil {
		t.watch.add(n)
	}
	if !d.loaded {
		return nil
	}
	fresh, err := t.list(n, math.MaxInt)
	if err != nil {
		return err
	}
	if t.edits != nil {
		if err := t.lowered(d); err != nil {
			return err
		}
	}
	var bad []error
	seen := make(map[string]bool, len(fresh))
	for i := range fresh {
		f := &fresh[i]
		seen[f.name] = true
		j := d.find(f.name)
		if j < 0 {
			d.insert(*f)
			out.name(n, f.name)
			continue
		}
		e := &d.ents[j]
		if touched != nil && !touched[f.name] && e.like(f, t.edits) {
			e.lower = f.lower
			continue
		}
		if err := t.renewEntry(n, e, f, out); err != nil {
			bad = append(bad, err)
		}
	}
	for i := range d.ents {
		if e := &d.ents[i]; !e.dead && !seen[e.name] {
			e.dead, e.lower = true, false
			out.name(n, e.name)
			t.detach(e, out)
		}
	}
	return errors.Join(bad...)
}

// restack gives the directory n another stack, and back what was kept for the
// parts that aren't in it any more.
func (t *Tree) restack(n *Node, stack []*hostDir) {
	var left []*hostDir
	for _, old := range n.dir.stack {
		if slices.Contains(stack, old) {
			continue
		}
		t.giveBack(n, old)
		same := func(d *hostDir) bool { return d.layer == old.layer && d.path() == old.path() }
		if !slices.ContainsFunc(stack, same) {
			left = append(left, old)
		}
	}
	n.dir.stack = stack
	if t.watch != nil {
		t.watch.remove(n, left)
	}
}

// giveBack closes a part of the directory n and, where the layer has that elsewhere,
// what leads to it.
func (t *Tree) giveBack(n *Node, part *hostDir) {
	for d := part; d.parent != nil && (n.parent == nil || !slices.Contains(n.parent.dir.stack, d)); d = d.parent {
		t.dirs.drop(&d.h)
	}
}

// like tells whether an entry stands for the same kind of thing as a freshly
// read one. What is in the edits changes only through the tree.
func (e *dirent) like(f *dirent, edits *Layer) bool {
	return e.dead == f.dead && e.layer == f.layer && (e.typ == f.typ || e.layer == edits)
}

// renewEntry brings one entry up to what was read, and its node with it where
// that still is the same thing.
func (t *Tree) renewEntry(dir *Node, e, f *dirent, out *news) error {
	n := e.node
	if e.layer == t.edits && f.layer == t.edits && e.dead == f.dead && (n == nil || n.dir == nil) {
		e.lower = f.lower
		return nil
	}
	if f.layer != t.edits {
		e.typ = f.typ
	}
	e.dead, e.lower, e.layer = f.dead, f.lower, f.layer
	if n != nil && !f.dead {
		same, err := t.renewNode(dir, n, f, out)
		if same || err != nil {
			return err
		}
	}
	out.name(dir, f.name)
	t.detach(e, out)
	return nil
}

// renewNode tells whether n still is what its name stands for, and makes it so
// if it can.
func (t *Tree) renewNode(dir, n *Node, f *dirent, out *news) (bool, error) {
	if n.dir != nil {
		if f.typ != unix.DT_DIR {
			return false, nil
		}
		found, err := step(dir.dir.stack, f.name)
		if err != nil || len(found.dirs) == 0 {
			return false, err
		}
		n.dir.overrides = t.overridesIn(dir.dir, f.name, found.redirect)
		t.override(n, t.wordOn(dir.dir, n, f.name))
		return true, t.renew(n, found.dirs, nil, out)
	}
	if n.part != nil && n.part.layer.edit && !f.layer.edit {
		// The layer's file may have its copy in the index alone.
		var a attrs
		m, err := t.makeNode(dir.dir, f.name, f.layer, &a)
		if err != nil {
			return false, ignoreMissing(err)
		}
		same := m.dir == nil && m.part.layer == n.part.layer && m.hostIno == n.hostIno
		t.put(m, place{})
		return same, nil
	}
	if n.part == nil || n.part.layer != f.layer {
		return false, nil
	}
	var a attrs
	part, err := dir.dir.part(f.name, f.layer, &a)
	if err != nil || part.layer.hostIno(&a.st) != n.hostIno || a.m.mode&unix.S_IFMT != n.typ {
		return false, ignoreMissing(err)
	}
	t.put(n, place{part, f.name})
	t.override(n, t.wordOn(dir.dir, n, f.name))
	out.node(n)
	return true, nil
}

// detach takes the entry's node from its name, and what is below it from
// theirs: for who has it open it lives on, as a removed file does.
func (t *Tree) detach(e *dirent, out *news) {
	n := e.node
	e.node = nil
	if n == nil {
		return
	}
	parent := n.parent
	if t.knowByOther(n) {
		out.node(n)
		parent.refs.Add(-1)
		return
	}
	if h := n.fh.Load(); h != nil {
		t.files.pin(h)
	}
	t.unregister(n)
	t.call(n, nil, "")
	n.set(dead)
	parent.refs.Add(-1)
	if n.dir == nil {
		return
	}
	if t.watch != nil {
		t.watch.remove(n, n.dir.stack) // before its folder is watched by the name that it may have now
	}
	n.refs.Add(1)
	for i := range n.dir.ents {
		t.detach(&n.dir.ents[i], out)
	}
	t.done(n)
}

// knowByOther makes a layer's file known by another of its names, when one is
// known that still is the same file.
func (t *Tree) knowByOther(n *Node) bool {
	if !n.is(linked) || n.part == nil || n.part.layer.edit {
		return false
	}
	t.linkMu.Lock()
	defer t.linkMu.Unlock()
	for _, at := range slices.Clone(t.names.of[n]) {
		t.names.remove(n, at)
		if !t.attached(at.dir) {
			continue
		}
		d := at.dir.dir
		e := d.alive(at.name)
		if e == nil || e.node != nil || e.layer != n.part.layer {
			continue
		}
		var a attrs
		part, err := d.part(at.name, e.layer, &a)
		if err != nil || part.layer.hostIno(&a.st) != n.hostIno || a.m.mode&unix.S_IFMT != n.typ {
			continue
		}
		t.adopt(at.dir, at.name, n)
		t.put(n, place{part, at.name})
		t.override(n, t.wordOn(d, n, at.name))
		e.node = n
		return true
	}
	return false
}

// linkedAs finds the node of a layer's file with several names, of which name
// in dir is or was one without a node. Where there is none, it returns the file's
// key: the name may have been shown as that of its copy, or the file be known from
// when it had one name. e is nil for a name that dir hasn't, or when it wasn't read
// yet.
func (t *Tree) linkedAs(dir *Node, name string, e *dirent) (n *Node, unknown linkKey) {
	t.linkMu.Lock()
	defer t.linkMu.Unlock()
	if n := t.names.in[dir][name]; n != nil {
		return n, linkKey{}
	}
	for _, part := range dir.dir.stack {
		if e != nil && part.layer != e.layer || e == nil && dir.dir.loaded {
			continue
		}
		var a attrs
		if ok, err := part.look(name, &a); err == nil && ok {
			key := linkKey{part.layer, part.layer.hostIno(&a.st)}
			if n = t.links[key]; n == nil && a.st.Nlink > 1 {
				return nil, key
			}
			return n, linkKey{}
		}
	}
	return nil, linkKey{}
}

// linkKnown notes which files below dir, known by the one name that they had, are
// those of keys, which have several now. t.mu is held exclusively.
func (t *Tree) linkKnown(dir *Node, keys map[linkKey]bool, out *news) {
	for i := range dir.dir.ents {
		n := dir.dir.ents[i].node
		switch {
		case n == nil:
		case n.dir != nil:
			t.linkKnown(n, keys, out)
		case n.part != nil && !n.is(linked) && keys[n.linkKey()]:
			t.register(n)
			t.override(n, t.wordOn(dir.dir, n, n.name))
			out.node(n)
		}
	}
}

// changed takes in what happened to names of the host directory that n shows.
// names says of each whether it may stand for another file now; else it was
// written to. It returns true when the layers must be looked at as a whole.
func (t *Tree) changed(n *Node, names map[string]bool, out *news) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ahead.drop()
	if n.is(dead) {
		return false, nil
	}
	moved := make(map[string]bool)
	for name, other := range names {
		if other {
			if t.mayLink(n, name) || t.mayBeMoved(n, name) {
				return true, nil
			}
			moved[name] = true
		}
	}
	if len(moved) > 0 {
		var err error
		if t.overrides != nil {
			_, err = t.findOverrides()
		}
		if err := errors.Join(err, t.renew(n, n.dir.stack, moved, out)); err != nil {
			return false, err
		}
	}
	unknown := make(map[linkKey]bool)
	for name, other := range names {
		e := n.dir.alive(name)
		if e == nil || e.node == nil {
			file, key := t.linkedAs(n, name, e)
			if file != nil {
				if file.parent != nil { // it may have lost a name of which the manifest says something
					t.override(file, t.wordOn(file.parent.dir, file, file.name))
				}
				out.node(file)
			}
			if key.layer != nil {
				out.name(n, name)
				if other {
					unknown[key] = true
				}
			}
		} else if !other {
			out.node(e.node)
		}
	}
	if len(unknown) > 0 {
		t.linkKnown(t.root, unknown, out)
	}
	return false, nil
}

// mayLink tells whether the rule of links.go turns on what name in dir was or
// is: a layer may have a directory over a symlink there, or a link that such a
// directory follows lead there.
func (t *Tree) mayLink(dir *Node, name string) bool {
	var link, over bool
	for _, part := range dir.dir.stack {
		if len(t.followed) > 0 && t.followed[join(part.path(), name)] {
			return true
		}
		if part.parent != nil && part.parent.parent != nil {
			continue // deeper than the rule looks for links
		}
		var a attrs
		if ok, err := part.look(name, &a); err == nil && ok {
			link = link || a.m.mode&unix.S_IFMT == unix.S_IFLNK
			over = over || a.m.mode&unix.S_IFMT == unix.S_IFDIR && part.layer.follows(join(part.path(), name))
		}
	}
	return link && over
}

// mayBeMoved tells whether the layers have or had a directory by that name in
// dir that the edits hide: they may have it by another.
func (t *Tree) mayBeMoved(dir *Node, name string) bool {
	stack := dir.dir.stack
	if !stack[0].layer.edit {
		return false
	}
	hidden := false
	for _, part := range stack {
		var st unix.Stat_t
		ok, err := part.stat(name, &st)
		found := err == nil && ok
		switch {
		case found && part.layer.isWhiteout(&st):
			hidden = true
		case found && !hidden:
			return false
		case found && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return true
		case found:
			return false
		}
	}
	i := dir.dir.find(name)
	if !hidden || i < 0 {
		return false
	}
	// What was read as a whiteout may hide either.
	e := &dir.dir.ents[i]
	return e.lower && (e.typ == unix.DT_DIR || e.typ == unix.DT_CHR)
}

// relayer takes in that packages, other layers or the manifest came, went or
// changed. Where the layers themselves can't be had, the tree stays as it was.
func (t *Tree) relayer(out *news) error {
	p, err := t.project.reread()
	if err != nil {
		return err
	}
	p.partly = true // a recipe that is being written must not hold up the rest
	layers, err := t.findLayers(context.Background(), p)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, l := range layers {
		layers[i] = t.sameLayer(l)
	}
	for _, l := range t.layers {
		if l.edit {
			layers = append(layers, l)
		}
	}
	was := t.layers
	for i, l := range layers {
		if slices.Contains(was, l) {
			continue
		}
		if err := l.open(t, i); err != nil {
			closeLayers(layers[:i], was)
			return err
		}
	}
	t.project, t.layers = p, layers
	for i, l := range layers {
		l.rank = i
	}
	numberLayers(t.layers)
	err = t.relink(out)
	closeLayers(was, layers)
	t.letGo(p.passing(layers))
	return err
}

// renewAll takes in whatever changed in the layers that the tree has.
func (t *Tree) renewAll(out *news) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.relink(out)
}

// relink merges the layers anew. t.mu is held exclusively.
func (t *Tree) relink(out *news) error {
	t.ahead.drop()
	for _, l := range t.layers {
		l.hidden, l.attach = nil, nil
	}
	if err := t.linkPackages(); err != nil {
		return err
	}
	_, err := t.findOverrides()
	t.root.dir.overrides = t.overrides
	return errors.Join(err, t.renew(t.root, withAttached(t.stackBelow(len(t.layers))), nil, out))
}

// sameLayer returns the layer that the tree has already for what l stands for,
// or else l.
func (t *Tree) sameLayer(l *Layer) *Layer {
	for _, old := range t.layers {
		if old.Name != l.Name || old.Dir != l.Dir {
			continue
		}
		var was, is unix.Stat_t
		if fd, err := old.root.open(); err == nil {
			err = unix.Fstat(fd, &was)
			old.root.close()
			if err == nil && unix.Stat(l.Dir, &is) == nil && was.Ino == is.Ino && was.Dev == is.Dev {
				old.implicit, old.mtime = l.implicit, l.mtime
				return old
			}
		}
	}
	return l
}
