package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Change says which attributes SetAttr sets; the others are nil.
type Change struct {
	Mode         *uint32 // the permission bits
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *SetTime

	// KillSuid clears the set-id bits that a change by an unprivileged
	// program clears.
	KillSuid bool
}

// SetTime is a time to set.
type SetTime struct {
	Time
	Now bool // the host's clock instead
}

// SetAttr changes attributes, which copies the entry up first. A new owner
// clears the set-id bits and the capability of a file, as the kernel does.
func (t *Tree) SetAttr(n *Node, c *Change) error {
	if t.state == nil {
		return unix.EROFS
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	if c.Size != nil {
		if err := t.truncate(n, *c.Size); err != nil {
			return err
		}
	}
	if c.Mode != nil || c.UID != nil || c.GID != nil || c.KillSuid {
		if err := t.setMeta(n, c); err != nil {
			return err
		}
	}
	if c.Atime == nil && c.Mtime == nil {
		return nil
	}
	times := []unix.Timespec{c.Atime.timespec(), c.Mtime.timespec()}
	return t.change(n, func(fd int) error {
		return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	})
}

func (s *SetTime) timespec() unix.Timespec {
	switch {
	case s == nil:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case s.Now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: s.Sec, Nsec: int64(s.Nsec)}
}

func (t *Tree) truncate(n *Node, size int64) error {
	switch n.typ {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return unix.EINVAL
	}
	if copied, err := t.copyUpTo(n, size); copied || err != nil {
		return err
	}
	fd, h, err := t.file(n)
	if err != nil {
		return err
	}
	defer t.files.put(h)
	return retry(func() error { return unix.Ftruncate(fd, size) })
}

// Apply makes e say what the change makes of a node that e describes.
func (c *Change) Apply(e *Entry) {
	m := meta{mode: e.Mode, uid: e.UID, gid: e.GID}
	c.edit(&m)
	e.Mode, e.UID, e.GID = m.mode, m.uid, m.gid
	if c.Size != nil {
		e.Size = *c.Size
	}
	if c.Atime != nil && !c.Atime.Now {
		e.Atime = c.Atime.Time
	}
	if c.Mtime != nil && !c.Mtime.Now {
		e.Mtime = c.Mtime.Time
	}
}

// edit changes owner and permissions.
func (c *Change) edit(m *meta) {
	chown := c.UID != nil || c.GID != nil
	if c.Mode != nil {
		m.mode = m.mode&unix.S_IFMT | *c.Mode&0o7777
	}
	if c.UID != nil {
		m.uid = *c.UID
	}
	if c.GID != nil {
		m.gid = *c.GID
	}
	if (chown && c.Mode == nil || c.KillSuid) && m.mode&unix.S_IFMT != unix.S_IFDIR {
		m.mode = withoutSetID(m.mode)
	}
}

// setMeta changes owner and permissions.
func (t *Tree) setMeta(n *Node, c *Change) error {
	return t.change(n, func(fd int) error {
		return editMetaAnd(fd, n.typ, c.edit, func() error {
			if c.Mode != nil {
				if err := chmodACL(fd, *c.Mode); err != nil {
					return err
				}
			}
			if (c.UID != nil || c.GID != nil) && n.typ == unix.S_IFREG {
				return dropCapability(fd)
			}
			return nil
		})
	})
}

// withoutSetID clears set-uid, and set-gid where it isn't a lock's sign.
func withoutSetID(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

func dropCapability(fd int) error {
	err := unix.Fremovexattr(fd, xattrForeign+xattrCapability)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

// KillSuid clears the set-id bits after a write by an unprivileged program.
func (t *Tree) KillSuid(n *Node) error {
	if n.typ != unix.S_IFREG {
		return nil
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	var e Entry
	if err := t.Stat(n, &e); err != nil || withoutSetID(e.Mode) == e.Mode {
		return err
	}
	return t.setMeta(n, &Change{KillSuid: true})
}

// editMeta changes the metadata of the open host entry fd, and returns what it
// was.
func editMeta(fd int, typ uint32, edit func(*meta)) (was meta, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return meta{}, err
	}
	m, err := metaOf(fd, st.Mode)
	if err != nil {
		return meta{}, err
	}
	m.mode = typ | m.mode&^unix.S_IFMT // a placeholder's is the host's
	was = m
	edit(&m)
	return was, recordFd(fd, m, st.Mode)
}

// editMetaAnd is editMeta, which is taken back when what belongs to it fails.
func editMetaAnd(fd int, typ uint32, edit func(*meta), also func() error) error {
	was, err := editMeta(fd, typ, edit)
	if err != nil {
		return err
	}
	if err := also(); err != nil {
		_, back := editMeta(fd, typ, func(m *meta) { *m = was })
		return errors.Join(err, back)
	}
	return nil
}

// change applies do to the host entry of n in the edits, copied up first.
func (t *Tree) change(n *Node, do func(fd int) error) error {
	if t.state == nil {
		return unix.EROFS
	}
	if n.dir != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !n.is(dead) {
			if err := t.dirUp(n); err != nil {
				return err
			}
		} else if !t.inEdits(n) {
			return nil // nobody can see it
		}
		up, err := n.upper().open()
		if err != nil {
			return err
		}
		defer n.upper().close()
		n.dir.bequest.Store(nil) // what is done may change them
		return withDirFd(up, ".", do)
	}
	if err := t.copyUp(n); err != nil {
		return err
	}
	fd, h, err := t.file(n)
	if err != nil {
		return err
	}
	defer t.files.put(h)
	t.files.unbare(h) // what is done may give it attributes
	return do(fd)
}
