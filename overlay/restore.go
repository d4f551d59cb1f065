package overlay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// restoring copies subtrees of another tree of the same project.
type restoring struct {
	from, to *Tree
	links    map[uint64]*Node // copies of files with several names, by inode
	held     []*Node          // of to; released in the end
}

// Restore makes paths, relative to the root, what they are in from: their types,
// contents, attributes and all below them; nothing, where from has nothing. An
// old entry stays until the new one is whole. It ends with the first error.
func (t *Tree) Restore(from *Tree, paths ...string) error {
	r := &restoring{from: from, to: t, links: make(map[uint64]*Node)}
	defer r.release()
	for _, path := range paths {
		names := splitAll(path)
		if len(names) == 0 {
			return errors.New("the root itself can't be restored: name what is in it")
		}
		if err := r.restore(names); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (r *restoring) restore(names []string) error {
	if err := r.present(names); err != nil {
		return err
	}
	src, dst := r.from.root, r.to.root
	for _, name := range names[:len(names)-1] {
		var err error
		if src, dst, err = r.descend(src, dst, name); err != nil {
			return err
		}
	}
	return r.replace(src, dst, names[len(names)-1])
}

// present returns ENOENT for a path that neither tree has.
func (r *restoring) present(names []string) error {
	src, dst := r.from.root, r.to.root
	for _, name := range names {
		var err error
		if src, err = r.look(r.from, src, name); err != nil {
			return err
		}
		if dst, err = r.look(r.to, dst, name); err != nil {
			return err
		}
	}
	if src == nil && dst == nil {
		return unix.ENOENT
	}
	return nil
}

// look is Lookup that gives nil for what isn't there.
func (r *restoring) look(t *Tree, dir *Node, name string) (*Node, error) {
	if dir == nil || dir.dir == nil {
		return nil, nil
	}
	n, err := t.Lookup(dir, name, nil)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err == nil && t == r.to {
		r.held = append(r.held, n)
	}
	return n, err
}

// release gives back what was looked up and made. The other tree is only read,
// and closed soon.
func (r *restoring) release() {
	for _, n := range r.held {
		r.to.Release(n, 1)
	}
}

// descend goes one directory down in both trees, and makes it where it is
// missing.
func (r *restoring) descend(src, dst *Node, name string) (*Node, *Node, error) {
	below, err := r.look(r.from, src, name)
	if err != nil {
		return nil, nil, err
	}
	there, err := r.look(r.to, dst, name)
	if err != nil {
		return nil, nil, err
	}
	if there == nil {
		if below == nil || below.dir == nil {
			return nil, nil, unix.ENOENT
		}
		if there, err = r.to.Mkdir(dst, name, 0o755, Owner{}, nil); err != nil {
			return nil, nil, err
		}
		r.held = append(r.held, there)
		if err := r.attributes(below, there); err != nil {
			return nil, nil, err
		}
		r.to.announce(dst, name)
	}
	if there.dir == nil {
		return nil, nil, fmt.Errorf("%s: %w", there.path(), unix.ENOTDIR)
	}
	return below, there, nil
}

// replace makes name in dst what it is in src.
func (r *restoring) replace(src, dst *Node, name string) error {
	n, err := r.look(r.from, src, name)
	if err != nil {
		return err
	}
	old, err := r.look(r.to, dst, name)
	if err != nil {
		return err
	}
	defer r.to.announce(dst, name)
	if n == nil {
		return r.to.removeAll(dst, name)
	}
	temp, err := r.tempName(dst)
	if err != nil {
		return err
	}
	defer r.to.announce(dst, temp) // which may have been listed meanwhile
	if err := r.copy(n, dst, temp); err != nil {
		return errors.Join(err, ignoreMissing(r.to.removeAll(dst, temp)))
	}
	// Before the old one goes.
	if err := r.to.syncEdits(); err != nil {
		return errors.Join(err, r.to.removeAll(dst, temp))
	}
	if old == nil {
		return r.to.Rename(dst, temp, dst, name, unix.RENAME_NOREPLACE)
	}
	if err := r.to.Rename(dst, temp, dst, name, unix.RENAME_EXCHANGE); err != nil {
		return errors.Join(err, r.to.removeAll(dst, temp))
	}
	r.to.announce(dst, name) // before what the kernel knows by that name goes
	return r.to.removeAll(dst, temp)
}

// tempName returns a name that nothing in dir has, also no restore that a crash
// has ended.
func (r *restoring) tempName(dir *Node) (string, error) {
	for {
		name := ".rootfs-restore-" + r.to.state.tempName()
		if n, err := r.look(r.to, dir, name); n == nil {
			return name, err
		}
	}
}

// copy makes name in dir a copy of n.
func (r *restoring) copy(n, dir *Node, name string) error {
	if first := r.links[n.ino]; first != nil {
		defer r.to.announceNode(first)
		return r.to.Link(first, dir, name)
	}
	var e Entry
	if err := r.from.Stat(n, &e); err != nil {
		return err
	}
	owner := Owner{UID: e.UID, GID: e.GID}
	var made *Node
	var err error
	switch n.typ {
	case unix.S_IFDIR:
		made, err = r.to.Mkdir(dir, name, e.Mode, owner, nil)
	case unix.S_IFLNK:
		var target string
		if target, err = r.from.Readlink(n); err == nil {
			made, err = r.to.Symlink(dir, name, target, owner, nil)
		}
	default:
		made, err = r.to.Mknod(dir, name, e.Mode, e.Rdev, owner, nil)
	}
	if err != nil {
		return err
	}
	if n.dir == nil && e.Nlink > 1 {
		r.links[n.ino] = made
		r.held = append(r.held, made)
	} else {
		defer r.to.Release(made, 1)
	}
	if n.typ == unix.S_IFREG {
		err = r.content(n, made)
	} else if n.dir != nil {
		err = r.children(n, made)
	}
	if err != nil {
		return err
	}
	return r.attributes(n, made)
}

func (r *restoring) content(n, made *Node) error {
	src, srcH, err := r.from.file(n)
	if err != nil {
		return err
	}
	defer r.from.files.put(srcH)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	cloned := false
	err = r.write(made, func(dst int) error {
		cloned = unix.IoctlFileClone(dst, src) == nil
		return unix.Ftruncate(dst, st.Size)
	})
	for off := int64(0); err == nil && !cloned && off < st.Size; off += restorePiece {
		err = r.write(made, func(dst int) error { return copyData(dst, src, off, min(off+restorePiece, st.Size)) })
	}
	return err
}

// restorePiece is how many bytes are copied while a checkpoint has to wait.
const restorePiece = 64 << 20

// write has do write to n, which a checkpoint may have frozen since the last time.
func (r *restoring) write(n *Node, do func(fd int) error) error {
	r.to.freeze.RLock()
	defer r.to.freeze.RUnlock()
	return r.to.change(n, do)
}

func (r *restoring) children(n, made *Node) error {
	return r.from.eachName(n, func(name string) error {
		child, err := r.from.Lookup(n, name, nil)
		if err != nil {
			return err
		}
		defer r.from.Release(child, 1)
		return r.copy(child, made, name)
	})
}

// attributes gives the copy the owner, mode, xattrs and times of n.
func (r *restoring) attributes(n, made *Node) error {
	var e Entry
	if err := r.from.Stat(n, &e); err != nil {
		return err
	}
	xattrs, err := r.from.Xattrs(n)
	if err != nil {
		return err
	}
	for _, name := range []string{xattrACLAccess, xattrACLDefault} { // inherited in the new place
		if err := r.to.RemoveXattr(made, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
	}
	// The owner first, since a change of it takes a capability away.
	if err := r.to.SetAttr(made, &Change{UID: &e.UID, GID: &e.GID}); err != nil {
		return err
	}
	for _, x := range xattrs {
		if err := r.to.SetXattr(made, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("extended attribute %s: %w", x.Name, err)
		}
	}
	return r.to.SetAttr(made, &Change{
		Mode: &e.Mode, Atime: &SetTime{Time: e.Atime}, Mtime: &SetTime{Time: e.Mtime},
	})
}

// eachName calls do with the names of a directory, which do may remove.
func (t *Tree) eachName(dir *Node, do func(name string) error) error {
	var buf [128]DirEntry
	for cookie := uint64(0); ; {
		n, err := t.ReadDir(dir, cookie, buf[:])
		if err != nil || n == 0 {
			return err
		}
		cookie = buf[n-1].Cookie
		for _, e := range buf[:n] {
			if err := do(e.Name); err != nil {
				return err
			}
		}
	}
}

// removeAll removes name from dir with all that is in it. What is removed is
// announced: it may be in use, or have other names.
func (t *Tree) removeAll(dir *Node, name string) error {
	n, err := t.Lookup(dir, name, nil)
	if err != nil {
		return err
	}
	defer t.Release(n, 1)
	defer t.announceNode(n)
	if n.dir == nil {
		return t.Unlink(dir, name)
	}
	if err := t.eachName(n, func(child string) error { return t.removeAll(n, child) }); err != nil {
		return err
	}
	return t.Rmdir(dir, name)
}

// announce tells who has the tree mounted that a name changed under it.
func (t *Tree) announce(dir *Node, name string) {
	t.mu.RLock()
	w := t.watch
	t.mu.RUnlock()
	if w != nil {
		w.notify.Changed(dir)
		w.notify.NameChanged(dir, name)
	}
}
