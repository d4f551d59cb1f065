package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Link gives the file n the further name name in dir.
func (t *Tree) Link(n, dir *Node, name string) error {
	switch {
	case t.state == nil:
		return unix.EROFS
	case n.dir != nil:
		return unix.EPERM
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	if err := t.copyUp(n); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.is(dead) && !n.is(tmpfile) {
		return unix.ENOENT
	}
	if err := t.free(dir, name); err != nil {
		return err
	}
	// Before the link: a crash between leaves one too many, not one too few,
	// with which the file would be taken for gone while it has a name.
	if err := t.countLinks(n, 1); err != nil {
		return err
	}
	if err := t.linkHost(n, dir, name); err != nil {
		return errors.Join(err, t.countLinks(n, -1))
	}
	e := dirent{name: name, layer: t.edits, typ: uint8(n.typ >> 12)}
	if n.part == nil {
		t.put(n, place{dir.upper(), name})
	}
	if n.parent == nil {
		t.adopt(dir, name, n)
		e.node = n
	}
	if !n.is(tmpfile) {
		t.register(n)
	}
	// It has a name in these edits, and is theirs as long as they are written.
	n.unset(dead | tmpfile | orphan)
	t.setInEdits(n)
	t.loosen(n)
	dir.dir.insert(e)
	return nil
}

// register notes that n has several names on the host.
func (t *Tree) register(n *Node) {
	t.linkMu.Lock()
	defer t.linkMu.Unlock()
	n.set(linked)
	t.links[n.linkKey()] = n
}

// unregister forgets the names of n; of a directory, the names in it.
func (t *Tree) unregister(n *Node) {
	if n.dir == nil && !n.is(linked) {
		return
	}
	t.linkMu.Lock()
	defer t.linkMu.Unlock()
	t.names.forget(n)
	if key := n.linkKey(); n.is(linked) && t.links[key] == n {
		delete(t.links, key)
	}
	n.unset(linked)
}

// linkHost links the host's file of n to name in the edits part of dir.
func (t *Tree) linkHost(n, dir *Node, name string) error {
	up, err := dir.upper().open()
	if err != nil {
		return err
	}
	defer dir.upper().close()
	if n.part == nil {
		fd, h, err := t.fileLocked(n)
		if err != nil {
			return err
		}
		defer t.files.put(h)
		return t.linkTo(unix.AT_FDCWD, procPath(fd, ""), unix.AT_SYMLINK_FOLLOW, up, name)
	}
	from, err := n.part.open()
	if err != nil {
		return err
	}
	defer n.part.close()
	return t.linkTo(from, n.hostName(), 0, up, name)
}

// linkTo is linkat that replaces a whiteout.
func (t *Tree) linkTo(from int, fromName string, flags, up int, name string) error {
	err := unix.Linkat(from, fromName, up, name, flags)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	return t.inWork(func(work int, temp string) error {
		if err := unix.Linkat(from, fromName, work, temp, flags); err != nil {
			return err
		}
		if err := unix.Renameat(work, temp, up, name); err != nil {
			return errors.Join(err, unix.Unlinkat(work, temp, 0))
		}
		return nil
	})
}

// countLinks changes the recorded number of names of a file whose names are
// not all on the host. t.mu is held.
func (t *Tree) countLinks(n *Node, by int32) error {
	if !t.inEdits(n) || !n.is(linked) {
		return nil
	}
	fd, h, err := t.fileLocked(n)
	if err != nil {
		return err
	}
	defer t.files.put(h)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&metaFlag == 0 {
		return err
	}
	_, err = editMeta(fd, n.typ, func(m *meta) {
		if m.nlink != 0 {
			m.nlink = uint32(max(int32(m.nlink)+by, 1))
		}
	})
	return err
}

// nameUp makes the name itself part of the edits, for a file that is there
// under another one. t.mu is held exclusively.
func (t *Tree) nameUp(n, dir *Node, name string) error {
	e := dir.dir.alive(name)
	if e.layer == t.edits {
		return nil
	}
	if err := t.dirUp(dir); err != nil {
		return err
	}
	if err := t.linkHost(n, dir, name); err != nil {
		return err
	}
	e.layer = t.edits
	return nil
}
