package overlay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// restoring copies a subtree of another tree of the same project.
type restoring struct {
	from, to *Tree
	links    map[uint64]*Node // copies of files with several names, by inode
}

// Restore makes path, relative to the root, what it is in from: its type,
// content, attributes and all below it; nothing, where from has nothing. The
// old entry stays until the new one is whole.
func (t *Tree) Restore(from *Tree, path string) error {
	names := splitAll(path)
	if len(names) == 0 {
		return errors.New("the root itself can't be restored: name what is in it")
	}
	r := &restoring{from: from, to: t, links: make(map[uint64]*Node)}
	src, dst := from.root, t.root
	for _, name := range names[:len(names)-1] {
		var err error
		if src, dst, err = r.descend(src, dst, name); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if dst != nil {
		if err := r.replace(src, dst, names[len(names)-1]); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// lookupIn is Lookup that gives nil for what isn't there.
func lookupIn(t *Tree, dir *Node, name string) (*Node, error) {
	if dir == nil || dir.dir == nil {
		return nil, nil
	}
	n, err := t.Lookup(dir, name, nil)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return n, err
}

// descend goes one directory down in both trees, and makes it where it is
// missing; dst is nil when neither tree has it.
func (r *restoring) descend(src, dst *Node, name string) (*Node, *Node, error) {
	below, err := lookupIn(r.from, src, name)
	if err != nil {
		return nil, nil, err
	}
	there, err := lookupIn(r.to, dst, name)
	if err != nil {
		return nil, nil, err
	}
	if there == nil && below != nil && below.dir != nil {
		if there, err = r.to.Mkdir(dst, name, 0o755, Owner{}, nil); err != nil {
			return nil, nil, err
		}
		if err := r.attributes(below, there); err != nil {
			return nil, nil, err
		}
		r.to.announce(dst, name)
	}
	if there != nil && there.dir == nil {
		return nil, nil, fmt.Errorf("%s: %w", there.path(), unix.ENOTDIR)
	}
	return below, there, nil
}

// replace makes name in dst what it is in src.
func (r *restoring) replace(src, dst *Node, name string) error {
	n, err := lookupIn(r.from, src, name)
	if err != nil {
		return err
	}
	old, err := lookupIn(r.to, dst, name)
	if err != nil {
		return err
	}
	defer r.to.announce(dst, name)
	if n == nil {
		if old == nil {
			return unix.ENOENT
		}
		return r.to.removeAll(dst, name)
	}
	temp := ".rootfs-restore-" + r.to.state.tempName()
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
	return r.to.removeAll(dst, temp)
}

// copy makes name in dir a copy of n.
func (r *restoring) copy(n, dir *Node, name string) error {
	if first := r.links[n.ino]; first != nil {
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
		r.links[n.ino] = made // keeps its reference: the copy ends with the call
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
	dst, dstH, err := r.to.file(made)
	if err != nil {
		return err
	}
	defer r.to.files.put(dstH)
	return copyFile(dst, src, -1)
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

// removeAll removes name from dir with all that is in it.
func (t *Tree) removeAll(dir *Node, name string) error {
	n, err := t.Lookup(dir, name, nil)
	if err != nil {
		return err
	}
	defer t.Release(n, 1)
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
