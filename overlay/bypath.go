package overlay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What the kernel lets nobody but root do to a file is done by path here. A
// path is relative to the root; symlinks in it aren't followed.

// parentOf returns the directory that path is in, with a reference, and the
// last name of path.
func (t *Tree) parentOf(path string) (*Node, string, error) {
	names := splitAll(path)
	if len(names) == 0 {
		return nil, "", errors.New("the root itself: name what is in it")
	}
	dir := t.root
	dir.refs.Add(1)
	for _, name := range names[:len(names)-1] {
		n, err := t.Lookup(dir, name, nil)
		t.Release(dir, 1)
		if err != nil {
			return nil, "", err
		}
		if n.dir == nil {
			where := n.path()
			t.Release(n, 1)
			return nil, "", fmt.Errorf("/%s: %w", where, unix.ENOTDIR)
		}
		dir = n
	}
	return dir, names[len(names)-1], nil
}

// byPath calls do with what is at path, and announces that it changed.
func (t *Tree) byPath(path string, do func(n *Node) error) error {
	dir, name, err := t.parentOf(path)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	defer t.Release(dir, 1)
	n, err := t.Lookup(dir, name, nil)
	if err == nil {
		defer t.Release(n, 1)
		err = do(n)
	}
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	return nil
}

// MakeNode makes a device, fifo, socket or empty file, as [Tree.Mknod] does.
func (t *Tree) MakeNode(path string, mode uint32, rdev uint64, o Owner) error {
	dir, name, err := t.parentOf(path)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	defer t.Release(dir, 1)
	n, err := t.Mknod(dir, name, mode, rdev, o, nil)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	t.Release(n, 1)
	t.announce(dir, name)
	return nil
}

// Chown gives what is at path another owner, group, or both; and, recursively,
// all that is below it.
func (t *Tree) Chown(path string, uid, gid *uint32, recursively bool) error {
	return t.byPath(path, func(n *Node) error { return t.chown(n, uid, gid, recursively) })
}

func (t *Tree) chown(n *Node, uid, gid *uint32, recursively bool) error {
	if err := t.SetAttr(n, &Change{UID: uid, GID: gid}); err != nil {
		return err
	}
	t.announceNode(n)
	if n.dir == nil || !recursively {
		return nil
	}
	return t.eachName(n, func(name string) error {
		child, err := t.Lookup(n, name, nil)
		if err != nil {
			return err
		}
		defer t.Release(child, 1)
		return t.chown(child, uid, gid, true)
	})
}

// xattrCapability is what the kernel reads a program's capabilities from:
// capabilities(7), "File capabilities".
const xattrCapability = "security.capability"

// SetCapability gives the program at path capabilities, in the form of a
// vfs_cap_data (include/uapi/linux/capability.h); none for an empty value.
func (t *Tree) SetCapability(path string, value []byte) error {
	err := t.byPath(path, func(n *Node) error {
		if n.typ != unix.S_IFREG {
			return errors.New("not a regular file")
		}
		defer t.announceNode(n)
		if len(value) > 0 {
			return t.SetXattr(n, xattrCapability, value, 0)
		}
		if err := t.RemoveXattr(n, xattrCapability); !errors.Is(err, unix.ENODATA) {
			return err
		}
		return nil
	})
	// Only who looks the name up makes the kernel forget that the file has no
	// capability, which the next write would have to take away.
	if dir, name, err := t.parentOf(path); err == nil {
		t.announce(dir, name)
		t.Release(dir, 1)
	}
	return err
}

// ReadFile returns the content of the regular file at path.
func (t *Tree) ReadFile(path string) (content []byte, err error) {
	err = t.byPath(path, func(n *Node) error {
		if n.typ != unix.S_IFREG {
			return errors.New("not a regular file")
		}
		var e Entry
		if err := t.Stat(n, &e); err != nil {
			return err
		}
		content = make([]byte, e.Size)
		read, err := t.Read(n, content, 0)
		content = content[:read]
		return err
	})
	return content, err
}

// announceNode tells who has the tree mounted that n has other attributes.
func (t *Tree) announceNode(n *Node) {
	t.mu.RLock()
	w := t.watch
	t.mu.RUnlock()
	if w != nil {
		w.notify.Changed(n)
	}
}
