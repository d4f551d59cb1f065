package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// renaming is a rename under way: old and dir are what the names stand for.
type renaming struct {
	t                *Tree
	oldDir, newDir   *Node
	oldName, newName string
	exchange         bool
	uncounted        bool  // a file that is replaced must be copied up first
	src, dst         *Node // dst is nil when the new name is free
}

// Rename moves an entry. flags are unix.RENAME_NOREPLACE and RENAME_EXCHANGE.
// A directory moves in one step whatever is in it: the layers keep it where it
// was, and the edits note from where it came.
func (t *Tree) Rename(oldDir *Node, oldName string, newDir *Node, newName string, flags uint32) error {
	switch {
	case flags&^uint32(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0,
		flags == unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE:
		return unix.EINVAL
	case t.state == nil:
		return unix.EROFS
	case oldDir.dir == nil || newDir.dir == nil:
		return unix.ENOTDIR
	case len(newName) > unix.NAME_MAX:
		return unix.ENAMETOOLONG
	}
	r := &renaming{
		t: t, oldDir: oldDir, oldName: oldName, newDir: newDir, newName: newName,
		exchange: flags == unix.RENAME_EXCHANGE,
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	for {
		if err := r.copyUp(); err != nil {
			return err
		}
		done, err := r.locked(flags)
		if done || err != nil {
			return err
		}
		// Another program put a file of a layer in place meanwhile.
	}
}

// copyUp brings the files that move into the edits, without the lock.
func (r *renaming) copyUp() error {
	for _, e := range []struct {
		dir  *Node
		name string
		must bool
	}{{r.oldDir, r.oldName, true}, {r.newDir, r.newName, r.exchange || r.uncounted}} {
		if !e.must {
			continue
		}
		n, err := r.t.Lookup(e.dir, e.name, nil)
		if err != nil {
			return err
		}
		if n.dir == nil {
			err = r.t.copyUp(n)
		}
		r.t.Release(n, 1)
		if err != nil {
			return err
		}
	}
	return nil
}

// locked does the rename under the lock; false when a file must be copied up
// first after all.
func (r *renaming) locked(flags uint32) (bool, error) {
	t := r.t
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if r.src, err = t.lookup(r.oldDir, r.oldName, nil); err != nil {
		return false, err
	}
	defer t.done(r.src)
	r.dst, err = t.lookup(r.newDir, r.newName, nil)
	switch {
	case err == nil:
		defer t.done(r.dst)
	case !errors.Is(err, unix.ENOENT) || r.exchange:
		return false, err
	}
	if r.dst != nil && flags == unix.RENAME_NOREPLACE {
		return false, unix.EEXIST
	}
	if err := errors.Join(t.lowered(r.oldDir.dir), t.lowered(r.newDir.dir)); err != nil {
		return false, err
	}
	if r.dst == r.src {
		return true, nil // also two names of one file: rename(2)
	}
	if err := r.allowed(); err != nil {
		return false, err
	}
	if r.dst != nil && !t.counts(r.dst) {
		r.uncounted = true
		return false, nil
	}
	if r.src.dir == nil && !t.inEdits(r.src) || r.exchange && r.dst.dir == nil && !t.inEdits(r.dst) {
		return false, nil
	}
	if err := r.prepare(); err != nil {
		return false, err
	}
	if r.exchange {
		return true, r.swap()
	}
	return true, r.move()
}

// allowed checks what the kernel would: types, emptiness, loops.
func (r *renaming) allowed() error {
	if r.newDir.is(dead) {
		return unix.ENOENT
	}
	for up := r.newDir; up != nil; up = up.parent {
		if up == r.src {
			return unix.EINVAL
		}
	}
	if r.exchange {
		for up := r.oldDir; up != nil; up = up.parent {
			if up == r.dst {
				return unix.EINVAL
			}
		}
		return nil
	}
	switch {
	case r.dst == nil:
		return nil
	case r.src.dir == nil && r.dst.dir != nil:
		return unix.EISDIR
	case r.src.dir != nil:
		return r.t.emptyDir(r.dst)
	}
	return nil
}

// prepare makes both directories and what moves part of the edits.
func (r *renaming) prepare() error {
	if err := r.t.dirUp(r.oldDir); err != nil {
		return err
	}
	if err := r.t.dirUp(r.newDir); err != nil {
		return err
	}
	if err := r.t.movable(r.src, r.oldDir, r.oldName, r.newDir); err != nil {
		return err
	}
	if r.exchange {
		return r.t.movable(r.dst, r.newDir, r.newName, r.oldDir)
	}
	return nil
}

// movable makes the name part of the edits, in a form that means the same in
// the directory to.
func (t *Tree) movable(n, dir *Node, name string, to *Node) error {
	if n.dir == nil {
		return t.nameUp(n, dir, name)
	}
	if err := t.dirUp(n); err != nil {
		return err
	}
	mark, value := xattrRedirect, ""
	if len(n.dir.stack) > 1 {
		has, err := n.upper().mark(xattrRedirect)
		if err != nil || has != "" {
			return err
		}
		if value, err = t.lowerPath(n); err != nil {
			return err
		}
	} else if len(to.dir.stack) > 1 {
		mark, value = xattrOpaque, "y"
	} else {
		return nil // nothing to merge with, here or there
	}
	up, err := n.upper().open()
	if err != nil {
		return err
	}
	defer n.upper().close()
	return withDirFd(up, ".", func(fd int) error { return setMark(fd, mark, value) })
}

// lowerPath is where the layers below the edits have the directory n.
func (t *Tree) lowerPath(n *Node) (string, error) {
	if n == t.root {
		return "", nil
	}
	if n.upper().layer == t.edits {
		at, err := n.upper().mark(xattrRedirect)
		if err != nil || at != "" {
			return at, err
		}
	}
	up, err := t.lowerPath(n.parent)
	return up + "/" + n.name, err
}

// move renames src over dst, if there is one.
func (r *renaming) move() error {
	t := r.t
	last := true
	if r.dst != nil {
		var err error
		if r.dst.dir != nil {
			err = r.clearDst()
		} else if last, err = t.lastName(r.dst); err == nil {
			err = t.keepContent(r.dst)
			defer t.loosen(r.dst)
		}
		if err != nil {
			return err
		}
	}
	if err := r.moveHost(); err != nil {
		return err
	}
	old := r.oldDir.dir.alive(r.oldName)
	moved := dirent{name: r.newName, node: old.node, layer: t.edits, typ: uint8(r.src.typ >> 12)}
	old.dead, old.node = true, nil
	if r.dst != nil {
		if r.dst.dir != nil {
			r.newDir.dir.alive(r.newName).node = nil
			t.orphanDir(r.dst)
		} else {
			t.nameGone(r.dst, r.newDir, r.newName, last)
		}
	}
	r.newDir.dir.insert(moved)
	t.renamed(r.src, r.oldDir, r.oldName, r.newDir, r.newName)
	return nil
}

// renamed moves the node, and its host directory, to the new name. A file that is
// known by another of its names stays there: it holds no reference to this one's
// directory.
func (t *Tree) renamed(n, oldDir *Node, oldName string, newDir *Node, newName string) {
	there := n.part == nil || n.part == oldDir.upper() && n.hostName() == oldName
	if n.parent == oldDir && n.name == oldName {
		t.call(n, newDir, newName)
		newDir.refs.Add(1)
		oldDir.refs.Add(-1)
	}
	if n.dir != nil {
		n.upper().parent, n.upper().name = newDir.upper(), newName
		if t.watch != nil {
			t.watch.add(n)
		}
		return
	}
	if there {
		t.put(n, place{newDir.upper(), newName})
	}
}

// clearDst makes room for a directory: an empty one in the edits may hold
// whiteouts, which an opaque one needs no more. It is as empty then as before.
func (r *renaming) clearDst() error {
	t := r.t
	if err := t.keepDir(r.dst); err != nil {
		return err
	}
	if r.newDir.dir.alive(r.newName).layer != t.edits {
		return nil
	}
	dst := r.dst.upper()
	whiteouts, err := readNames(dst)
	if err != nil || len(whiteouts) == 0 {
		return err
	}
	fd, err := dst.open()
	if err != nil {
		return err
	}
	defer dst.close()
	return withDirFd(fd, ".", func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if err := setMark(fd, xattrOpaque, "y"); err != nil {
			return err
		}
		r.dst.dir.stack = r.dst.dir.stack[:1]
		for _, h := range whiteouts {
			if err = unix.Unlinkat(fd, h.name, 0); err != nil {
				break
			}
		}
		// It stays as it was if it can't be replaced after all.
		t.unfinished("a directory's time changed", unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH))
		return err
	})
}

// moveHost renames in the edits and leaves a whiteout where a layer below has
// the old name.
func (r *renaming) moveHost() error {
	from, to, done, err := r.open()
	if err != nil {
		return err
	}
	defer done()
	lower := r.oldDir.dir.alive(r.oldName).lower
	flags := uint(0)
	if lower {
		flags = unix.RENAME_WHITEOUT
	}
	err = unix.Renameat2(from, r.oldName, to, r.newName, flags)
	if !errors.Is(err, unix.ENOTDIR) || r.src.dir == nil {
		return err
	}
	// A directory onto a whiteout: they change places.
	if err := unix.Renameat2(from, r.oldName, to, r.newName, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if lower {
		return nil // where the whiteout is right
	}
	r.t.unfinished("a whiteout stays that hides nothing", unix.Unlinkat(from, r.oldName, 0))
	return nil
}

func (r *renaming) open() (from, to int, done func(), err error) {
	return openBoth(r.oldDir.upper(), r.newDir.upper())
}

// swap exchanges two entries.
func (r *renaming) swap() error {
	from, to, done, err := r.open()
	if err != nil {
		return err
	}
	defer done()
	if err := unix.Renameat2(from, r.oldName, to, r.newName, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	a, b := r.oldDir.dir.alive(r.oldName), r.newDir.dir.alive(r.newName)
	a.node, b.node = b.node, a.node
	a.typ, b.typ = b.typ, a.typ
	r.t.renamed(r.src, r.oldDir, r.oldName, r.newDir, r.newName)
	r.t.renamed(r.dst, r.newDir, r.newName, r.oldDir, r.oldName)
	return nil
}
