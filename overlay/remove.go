package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Unlink removes a file's name.
func (t *Tree) Unlink(dir *Node, name string) error {
	for {
		n, err := t.unlink(dir, name)
		if n == nil || err != nil {
			return err
		}
		t.freeze.RLock()
		err = t.copyUp(n)
		t.freeze.RUnlock()
		t.Release(n, 1)
		if err != nil {
			return err
		}
	}
}

// counts tells whether a file can lose a name, or must be copied up first: how
// many names a file has left is recorded at its copy, as overlayfs does it.
func (t *Tree) counts(n *Node) bool { return n.dir != nil || !n.is(linked) || t.inEdits(n) }

// unlink removes a name; or returns its file, with a reference, when that must
// be copied up first.
func (t *Tree) unlink(dir *Node, name string) (*Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.victim(dir, name)
	if err != nil {
		return nil, err
	}
	if !t.counts(n) {
		return n, nil
	}
	defer t.done(n)
	return nil, t.unlinkFile(n, dir, name)
}

func (t *Tree) unlinkFile(n, dir *Node, name string) error {
	if n.dir != nil {
		return unix.EISDIR
	}
	last, err := t.lastName(n)
	if err != nil {
		return err
	}
	if err := t.keepContent(n); err != nil {
		return err
	}
	defer t.loosen(n)
	if err := t.dirUp(dir); err != nil {
		return err
	}
	if err := t.unlinkHost(dir, name); err != nil {
		return err
	}
	t.nameGone(n, dir, name, last)
	return nil
}

// victim looks up what is to be removed.
func (t *Tree) victim(dir *Node, name string) (*Node, error) {
	if t.state == nil {
		return nil, unix.EROFS
	}
	n, err := t.lookup(dir, name, nil)
	if err != nil {
		return nil, err
	}
	if err := t.lowered(dir.dir); err != nil {
		t.done(n)
		return nil, err
	}
	return n, nil
}

// done gives back a reference under t.mu.
func (t *Tree) done(n *Node) {
	if n.refs.Add(-1) <= 0 {
		t.drop(n)
	}
}

// lastName tells whether n has one name left.
func (t *Tree) lastName(n *Node) (bool, error) {
	if !n.is(linked) {
		return true, nil
	}
	var a attrs
	var e Entry
	if err := t.attrs(n, &a); err != nil {
		return false, err
	}
	n.fill(&e, &a)
	return e.Nlink <= 1, nil
}

// keepContent holds on to a file in the edits that loses a name, while somebody
// may have it open or it has other names, by which it isn't found yet.
func (t *Tree) keepContent(n *Node) error {
	t.thaw(n)
	if !t.inEdits(n) || n.refs.Load() <= 1 && !n.is(linked) {
		return nil
	}
	_, h, err := t.fileLocked(n)
	if err != nil {
		return err
	}
	t.files.pin(h)
	t.files.put(h)
	return nil
}

// loosen lets others have the place of n's descriptor, if the host has a name by
// which n can be opened again. t.mu is held exclusively.
func (t *Tree) loosen(n *Node) {
	if h := n.fh.Load(); h != nil && n.part != nil && !n.is(dead) {
		t.files.unpin(h)
	}
}

// unlinkHost takes name out of the edits part of dir, and leaves a whiteout
// when a layer below has it.
func (t *Tree) unlinkHost(dir *Node, name string) error {
	up, err := dir.upper().open()
	if err != nil {
		return err
	}
	defer dir.upper().close()
	e := dir.dir.alive(name)
	switch {
	case e.layer != t.edits:
		return unix.Mknodat(up, name, unix.S_IFCHR, 0)
	case !e.lower:
		return unix.Unlinkat(up, name, 0)
	}
	return t.inWork(func(work int, temp string) error {
		if err := unix.Mknodat(work, temp, unix.S_IFCHR, 0); err != nil {
			return err
		}
		if err := unix.Renameat(work, temp, up, name); err != nil {
			return errors.Join(err, unix.Unlinkat(work, temp, 0))
		}
		return nil
	})
}

// nameGone notes that the file n lost the name.
func (t *Tree) nameGone(n, dir *Node, name string, last bool) {
	e := dir.dir.alive(name)
	e.dead, e.node = true, nil
	if up := dir.upper(); n.part == up && n.hostName() == name {
		t.put(n, place{})
		n.set(orphan)
	}
	if n.parent == dir && n.name == name {
		t.call(n, nil, "")
		dir.refs.Add(-1)
	}
	if last {
		n.set(dead)
		return
	}
	if n.part == nil && n.parent != nil {
		err := t.nameUp(n, n.parent, n.name)
		if err == nil {
			t.put(n, place{n.parent.upper(), n.name})
			n.unset(orphan)
		}
		t.unfinished("a file is kept by its descriptor", err)
	}
	t.unfinished("a file's number of names stays one too high", t.countLinks(n, -1))
}

// Rmdir removes an empty directory.
func (t *Tree) Rmdir(dir *Node, name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.victim(dir, name)
	if err != nil {
		return err
	}
	defer t.done(n)
	if err := t.emptyDir(n); err != nil {
		return err
	}
	if err := t.dirUp(dir); err != nil {
		return err
	}
	if err := t.keepDir(n); err != nil {
		return err
	}
	if dir.dir.alive(name).layer != t.edits {
		err = t.unlinkHost(dir, name)
	} else {
		err = t.rmdirHost(dir, name)
	}
	if err != nil {
		return err
	}
	e := dir.dir.alive(name)
	e.dead, e.node = true, nil
	t.orphanDir(n)
	return nil
}

// emptyDir returns nil for an empty directory.
func (t *Tree) emptyDir(n *Node) error {
	if n.dir == nil {
		return unix.ENOTDIR
	}
	if err := t.load(n); err != nil {
		return err
	}
	for i := range n.dir.ents {
		if !n.dir.ents[i].dead {
			return unix.ENOTEMPTY
		}
	}
	return nil
}

// keepDir holds the host directory of n open, for who stands in it.
func (t *Tree) keepDir(n *Node) error {
	if n.upper().layer != t.edits || n.refs.Load() <= 1 {
		return nil
	}
	up := n.upper()
	if _, err := up.open(); err != nil {
		return err
	}
	t.dirs.pin(&up.h)
	up.close()
	return nil
}

// orphanDir notes that the directory n has no name any more.
func (t *Tree) orphanDir(n *Node) {
	n.parent.refs.Add(-1)
	t.call(n, nil, "")
	n.set(dead)
}

// rmdirHost removes the directory name, in which at most whiteouts are, from
// the edits part of dir.
func (t *Tree) rmdirHost(dir *Node, name string) error {
	up, err := dir.upper().open()
	if err != nil {
		return err
	}
	defer dir.upper().close()
	lower := dir.dir.alive(name).lower
	if !lower {
		err := unix.Unlinkat(up, name, unix.AT_REMOVEDIR)
		if !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return t.inWork(func(work int, temp string) error {
		flags := uint(0)
		if lower {
			if err := unix.Mknodat(work, temp, unix.S_IFCHR, 0); err != nil {
				return err
			}
			flags = unix.RENAME_EXCHANGE
		}
		if err := unix.Renameat2(up, name, work, temp, flags); err != nil {
			if lower {
				err = errors.Join(err, unix.Unlinkat(work, temp, 0))
			}
			return err
		}
		t.unfinished("a removed directory stays in the work directory", t.clearWork(work, temp))
		return nil
	})
}

// clearWork removes a directory of whiteouts from the work directory.
func (t *Tree) clearWork(work int, temp string) error {
	names, err := readNames(&hostDir{layer: t.edits, parent: t.state.work, name: temp})
	if err != nil {
		return err
	}
	err = withDirFd(work, temp, func(fd int) error {
		for _, h := range names {
			if err := unix.Unlinkat(fd, h.name, 0); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, unix.Unlinkat(work, temp, unix.AT_REMOVEDIR))
}
