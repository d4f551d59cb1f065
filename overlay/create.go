package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Owner says who makes an entry.
type Owner struct {
	UID, GID uint32

	// Umask is taken out of the entry's permissions, unless its directory has
	// a default access list.
	Umask uint32
}

// Mknod makes an empty regular file, device, fifo or socket, as the type in mode
// says, and fills e with its attributes, unless that is nil. It returns EEXIST when
// the name is taken. All that follow do the same. Devices are recorded; the host
// gets none.
func (t *Tree) Mknod(dir *Node, name string, mode uint32, rdev uint64, o Owner, e *Entry) (*Node, error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		rdev = 0
	case unix.S_IFCHR, unix.S_IFBLK:
	case 0:
		mode |= unix.S_IFREG
	default:
		return nil, unix.EINVAL
	}
	return t.make(dir, name, mode, rdev, o, "", e)
}

// Symlink makes a symbolic link to target.
func (t *Tree) Symlink(dir *Node, name, target string, o Owner, e *Entry) (*Node, error) {
	switch {
	case target == "":
		return nil, unix.ENOENT
	case len(target) >= unix.PathMax:
		return nil, unix.ENAMETOOLONG
	}
	return t.make(dir, name, unix.S_IFLNK|0o777, 0, o, target, e)
}

// Mkdir makes a directory.
func (t *Tree) Mkdir(dir *Node, name string, mode uint32, o Owner, e *Entry) (*Node, error) {
	return t.make(dir, name, unix.S_IFDIR|mode&0o7777, 0, o, "", e)
}

func (t *Tree) make(dir *Node, name string, mode uint32, rdev uint64, o Owner, target string, e *Entry) (*Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.free(dir, name); err != nil {
		return nil, err
	}
	m := meta{mode: mode, uid: o.UID, gid: o.GID, rdev: rdev}
	lists, err := t.inherit(dir, &m, o.Umask)
	if err != nil {
		return nil, err
	}
	if len(target) <= maxMetaTarget {
		m.target = target
	}
	up := dir.upper()
	n := &Node{typ: m.mode & unix.S_IFMT, name: name}
	t.setInEdits(n)
	n.refs.Store(1)
	a := attrs{m: m}
	fd, err := t.makeHost(dir, name, m, target, lists, &a.st)
	if err != nil {
		return nil, err
	}
	n.hostIno = a.st.Ino
	n.ino = up.layer.ino(&a.st)
	if n.typ == unix.S_IFDIR {
		_ = unix.Close(fd)
		n.dir = &directory{stack: []*hostDir{{layer: t.edits, parent: up, name: name}}, loaded: true, edits: t.edits}
	} else {
		n.part = up
		t.keepOpen(n, fd, &handle{bare: lists == nil})
	}
	t.adopt(dir, name, n)
	dir.dir.insert(dirent{name: name, node: n, layer: t.edits, typ: uint8(n.typ >> 12)})
	if e != nil {
		n.fill(e, &a)
	}
	return n, nil
}

// keepOpen takes the new file's descriptor over, with a handle that is new, too.
func (t *Tree) keepOpen(n *Node, fd int, h *handle) {
	n.fh.Store(h)
	t.files.install(h, fd)
	t.files.put(h)
}

// free makes dir ready to get name, which must not be there. t.mu is held
// exclusively.
func (t *Tree) free(dir *Node, name string) error {
	switch {
	case t.state == nil:
		return unix.EROFS
	case dir.dir == nil:
		return unix.ENOTDIR
	case len(name) > unix.NAME_MAX:
		return unix.ENAMETOOLONG
	}
	if err := t.dirUp(dir); err != nil {
		return err
	}
	if err := t.load(dir); err != nil {
		return err
	}
	if err := t.lowered(dir.dir); err != nil {
		return err
	}
	if dir.dir.alive(name) != nil {
		return unix.EEXIST
	}
	return nil
}

// whitedOut tells whether the edits have a whiteout for a name that is free.
func (d *directory) whitedOut(name string) bool {
	i := d.find(name)
	return i >= 0 && d.ents[i].lower
}

// inherit gives a new entry the group of a set-gid directory, and returns the
// access lists that it gets from dir.
func (t *Tree) inherit(dir *Node, m *meta, umask uint32) ([]Xattr, error) {
	b, err := t.bequestOf(dir)
	if err != nil {
		return nil, err
	}
	if b.setGID {
		m.gid = b.gid
		if m.mode&unix.S_IFMT == unix.S_IFDIR {
			m.mode |= unix.S_ISGID
		}
	}
	return inheritACL(b.acl, m, umask), nil
}

// makeHost makes the host's entry for name and returns it open, its attributes
// in st. What takes more than one call is made in the work directory and gets
// its name by rename, so that a crash or an error leaves all of it or nothing.
func (t *Tree) makeHost(dir *Node, name string, m meta, target string, lists []Xattr, st *unix.Stat_t) (int, error) {
	up, err := dir.upper().open()
	if err != nil {
		return -1, err
	}
	defer dir.upper().close()
	isDir := m.mode&unix.S_IFMT == unix.S_IFDIR
	if m.implied() && lists == nil && !dir.dir.whitedOut(name) {
		fd, err := makeEntry(up, name, m)
		if err == nil {
			err = unix.Fstat(fd, st)
			if err == nil && st.Mode&0o7777 != m.hostPerm() { // by a set-gid bit or a default list of the project's directory
				if err = unix.Fchmod(fd, m.hostPerm()); err == nil {
					err = unix.Fstat(fd, st)
				}
			}
			if err != nil {
				err = errors.Join(err, unix.Close(fd), remove(up, name, isDir))
			}
		}
		if !errors.Is(err, unix.EEXIST) {
			return fd, err
		}
		// A whiteout of something that is no longer below.
	}
	fd := -1
	err = t.inWork(func(work int, temp string) error {
		var err error
		if fd, err = makeEntry(work, temp, m); err != nil {
			return err
		}
		if m.target == "" && target != "" {
			_, err = unix.Pwrite(fd, []byte(target), 0)
			if err == nil {
				err = unix.Fsync(fd) // or the name may reach the disk before it
			}
		}
		if err == nil {
			err = recordNew(fd, m, lists)
		}
		if err == nil && isDir && dir.dir.whitedOut(name) {
			err = setMark(fd, xattrOpaque, "y")
		}
		if err == nil {
			err = unix.Fstat(fd, st)
		}
		if err == nil {
			err = t.publish(work, temp, up, name)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd), remove(work, temp, isDir))
		}
		_ = unix.Fstat(fd, st) // again, for the ctime: a rename changes it
		return nil
	})
	return fd, err
}

// recordNew gives a host entry that was just made its metadata and lists.
func recordNew(fd int, m meta, lists []Xattr) error {
	for _, x := range lists {
		if err := unix.Fsetxattr(fd, x.Name, x.Value, 0); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return recordFd(fd, m, st.Mode)
}

// makeEntry makes a file or directory and returns it open.
func makeEntry(dirfd int, name string, m meta) (int, error) {
	if m.mode&unix.S_IFMT != unix.S_IFDIR {
		return openRetry(dirfd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, m.hostPerm())
	}
	if err := unix.Mkdirat(dirfd, name, m.hostPerm()); err != nil {
		return -1, err
	}
	fd, err := openRetry(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, errors.Join(err, remove(dirfd, name, true))
	}
	return fd, nil
}

// publish renames a work entry to its name, where at most a whiteout is.
func (t *Tree) publish(work int, temp string, up int, name string) error {
	err := unix.Renameat(work, temp, up, name)
	if !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	// A directory can't replace a whiteout, but change places with it.
	if err := unix.Renameat2(work, temp, up, name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	t.unfinished("a whiteout stays in the work directory", unix.Unlinkat(work, temp, 0))
	return nil
}

// unfinished logs what couldn't be done after a change had taken effect. It is
// nothing that shows as an entry.
func (t *Tree) unfinished(what string, err error) {
	if err != nil {
		t.log.Warn(what, "cause", err)
	}
}

func remove(dirfd int, name string, isDir bool) error {
	flags := 0
	if isDir {
		flags = unix.AT_REMOVEDIR
	}
	return unix.Unlinkat(dirfd, name, flags)
}

// setMark gives an open directory one of the overlay's own attributes, and
// the flag without which nobody looks for it.
func setMark(fd int, name, value string) error {
	if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&metaFlag != 0 {
		return err
	}
	if err := unix.Fsetxattr(fd, xattrMeta, meta{mode: st.Mode}.encode(), 0); err != nil {
		return err
	}
	return unix.Fchmod(fd, st.Mode&0o7777|metaFlag)
}

// Tmpfile makes a regular file without a name, which Link may give it.
func (t *Tree) Tmpfile(dir *Node, mode uint32, o Owner, e *Entry) (*Node, error) {
	if t.state == nil {
		return nil, unix.EROFS
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	m := meta{mode: unix.S_IFREG | mode&0o7777, uid: o.UID, gid: o.GID}
	t.mu.RLock()
	lists, err := t.inherit(dir, &m, o.Umask)
	t.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	work, err := t.state.work.open()
	if err != nil {
		return nil, err
	}
	defer t.state.work.close()
	fd, err := openRetry(work, ".", unix.O_RDWR|unix.O_TMPFILE, m.hostPerm())
	if err != nil {
		return nil, err
	}
	a := attrs{m: m}
	if err = recordNew(fd, m, lists); err == nil {
		err = unix.Fstat(fd, &a.st)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	n := &Node{typ: unix.S_IFREG, hostIno: a.st.Ino, ino: t.edits.ino(&a.st)}
	n.set(orphan | dead | tmpfile)
	n.refs.Store(1)
	t.keepOpen(n, fd, &handle{bare: lists == nil, pinned: true})
	if e != nil {
		n.fill(e, &a)
	}
	return n, nil
}
