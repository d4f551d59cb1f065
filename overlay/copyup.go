package overlay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// snapshot is what copy-up gives the copy besides its content.
type snapshot struct {
	m      meta
	times  [2]unix.Timespec // access, modification
	xattrs []Xattr
}

// snapshot reads a lower node as it is shown. t.mu is held.
func (t *Tree) snapshot(n *Node) (*snapshot, error) {
	var a attrs
	var e Entry
	if err := t.attrs(n, &a); err != nil {
		return nil, err
	}
	n.fill(&e, &a)
	s := &snapshot{m: meta{mode: e.Mode, uid: e.UID, gid: e.GID, rdev: e.Rdev, origin: n.ino}}
	s.times[0] = unix.Timespec{Sec: e.Atime.Sec, Nsec: int64(e.Atime.Nsec)}
	s.times[1] = unix.Timespec{Sec: e.Mtime.Sec, Nsec: int64(e.Mtime.Nsec)}
	if n.dir == nil && (e.Nlink > 1 || n.parent == nil && !n.is(dead)) {
		s.m.nlink = e.Nlink
	}
	var err error
	s.xattrs, err = t.xattrs(n)
	return s, err
}

// applyFd records the snapshot on an open host file, whose mode is mode.
func (s *snapshot) applyFd(fd int, mode uint32) error {
	for _, x := range s.xattrs {
		name, err := recordedName(s.m.mode, x.Name)
		if err != nil {
			continue // the edits can't hold it, and it can't be set there either
		}
		if err := unix.Fsetxattr(fd, name, x.Value, 0); err != nil {
			return fmt.Errorf("extended attribute %s: %w", x.Name, err)
		}
	}
	if err := recordFd(fd, s.m, mode); err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, "", s.times[:], unix.AT_EMPTY_PATH)
}

// apply records the snapshot on a directory.
func (s *snapshot) apply(d *hostDir) error {
	up, err := d.open()
	if err != nil {
		return err
	}
	defer d.close()
	return withDirFd(up, ".", func(fd int) error { return s.applyFd(fd, 0) })
}

// withDirFd opens a directory to change its attributes.
func withDirFd(dirfd int, name string, do func(fd int) error) error {
	fd, err := openRetry(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written through it
	return do(fd)
}

// dirUp makes the directory n, and those above it, part of the edits. t.mu is
// held exclusively.
func (t *Tree) dirUp(n *Node) error {
	switch {
	case n.dir == nil:
		return unix.ENOTDIR
	case n.is(dead):
		return unix.ENOENT
	case t.inEdits(n):
		return nil
	case n.upper().layer == t.edits: // after a checkpoint that was taken back
		t.setInEdits(n)
		return nil
	}
	if err := t.dirUp(n.parent); err != nil {
		return err
	}
	snap, err := t.snapshot(n)
	if err != nil {
		return err
	}
	err = t.inWork(func(work int, temp string) error {
		if err := unix.Mkdirat(work, temp, 0o700); err != nil {
			return err
		}
		err := withDirFd(work, temp, func(fd int) error { return snap.applyFd(fd, 0) })
		if err == nil {
			err = t.publishQuietly(work, temp, n.parent, n.name)
		}
		if err != nil {
			return errors.Join(err, unix.Unlinkat(work, temp, unix.AT_REMOVEDIR))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("copy up %s: %w", n.path(), err)
	}
	up := &hostDir{layer: t.edits, parent: n.parent.upper(), name: n.name}
	n.dir.stack = append([]*hostDir{up}, n.dir.stack...)
	t.setInEdits(n)
	n.parent.dir.raise(n.name, t.edits)
	return nil
}

// upper is the directory's part in the edits, which it must have.
func (n *Node) upper() *hostDir { return n.dir.stack[0] }

// raise notes that name's topmost entry is now in the layer l.
func (d *directory) raise(name string, l *Layer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.alive(name); e != nil {
		e.layer = l
	}
}

// inWork runs do with the work directory and a free name in it.
func (t *Tree) inWork(do func(work int, temp string) error) error {
	work, err := t.state.work.open()
	if err != nil {
		return err
	}
	defer t.state.work.close()
	return do(work, t.state.tempName())
}

// publishQuietly renames a work entry into the edits part of dir without a
// change of dir's times: a copy-up is no change of the directory.
func (t *Tree) publishQuietly(work int, temp string, dir *Node, name string) error {
	up, err := dir.upper().open()
	if err != nil {
		return err
	}
	defer dir.upper().close()
	var st unix.Stat_t
	if err := unix.Fstat(up, &st); err != nil {
		return err
	}
	if err := unix.Renameat(work, temp, up, name); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	t.unfinished("a directory's time changed with a copy-up", unix.UtimesNanoAt(up, "", times, unix.AT_EMPTY_PATH))
	return nil
}

// copyUp makes the file n part of the edits. t.mu is not held.
func (t *Tree) copyUp(n *Node) error {
	_, err := t.copyUpTo(n, -1)
	return err
}

// copyUpTo is copyUp, which truncates the copy to size bytes unless that is
// negative; false when there was nothing to copy.
func (t *Tree) copyUpTo(n *Node, size int64) (bool, error) {
	if t.inEdits(n) {
		return false, nil
	}
	t.startCopy(n)
	defer t.endCopy(n)
	if t.inEdits(n) {
		return false, nil
	}
	t.mu.Lock()
	if t.thaw(n) {
		t.mu.Unlock()
		return false, nil
	}
	snap, err := t.prepareCopy(n)
	t.mu.Unlock()
	if err != nil {
		return false, err
	}
	return true, t.inWork(func(work int, temp string) error {
		fd, err := openRetry(work, temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err = t.copyContent(n, fd, size); err == nil {
			err = snap.applyFd(fd, 0o600)
		}
		if err == nil && size >= 0 {
			err = retry(func() error { return unix.Ftruncate(fd, size) })
		}
		if err == nil {
			// The rename must not reach the disk before the content does.
			err = unix.Fsync(fd)
		}
		if err == nil {
			err = t.installCopy(n, snap, work, temp, fd)
		}
		if err != nil {
			err = errors.Join(err, unix.Unlinkat(work, temp, 0), unix.Close(fd))
			return fmt.Errorf("copy up %s: %w", n.path(), err)
		}
		return nil
	})
}

// startCopy waits until nobody else copies n up.
func (t *Tree) startCopy(n *Node) {
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	for t.copying[n] {
		t.copied.Wait()
	}
	t.copying[n] = true
}

func (t *Tree) endCopy(n *Node) {
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	delete(t.copying, n)
	t.copied.Broadcast()
}

// thaw makes the file n part of the edits where it is, if it is one that was
// first seen while they were frozen, by a checkpoint that was taken back, and
// returns whether it was. t.mu is held exclusively.
func (t *Tree) thaw(n *Node) bool {
	if n.part == nil || n.part.layer != t.edits || t.inEdits(n) {
		return false
	}
	if h := n.fh.Swap(nil); h != nil { // it may be open to read only
		t.files.retire(h)
	}
	t.setInEdits(n) // last: who sees it writes
	return true
}

// prepareCopy makes the place that a copy of n goes to and says what it gets.
func (t *Tree) prepareCopy(n *Node) (*snapshot, error) {
	if n.parent != nil {
		if err := t.dirUp(n.parent); err != nil {
			return nil, err
		}
	}
	return t.snapshot(n)
}

// copyContent copies the node's content, or a symlink's target, into fd.
func (t *Tree) copyContent(n *Node, fd int, size int64) error {
	switch n.typ {
	case unix.S_IFLNK:
		target, err := t.Readlink(n)
		if err != nil {
			return err
		}
		_, err = unix.Pwrite(fd, []byte(target), 0)
		return err
	case unix.S_IFREG:
		if size == 0 {
			return nil
		}
		src, h, err := t.file(n)
		if err != nil {
			return err
		}
		defer t.files.put(h)
		return copyFile(fd, src, size)
	}
	return nil
}

// installCopy gives the copy its name and n its new place. It takes fd over.
func (t *Tree) installCopy(n *Node, snap *snapshot, work int, temp string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.parent == nil && n.is(dead) { // its name went while its content was copied
		if err := unix.Unlinkat(work, temp, 0); err != nil {
			return err
		}
		t.rehome(n, place{}, &st, fd)
		return nil
	}
	key := ""
	if snap.m.nlink != 0 {
		var err error
		if key, err = t.keyOf(n); err != nil {
			return err
		}
		if err := t.state.index.add(work, temp, key); err != nil {
			return err
		}
		st.Nlink++
	}
	if n.parent == nil { // it has names that nobody has looked up; they find it
		if err := unix.Unlinkat(work, temp, 0); err != nil {
			return err
		}
		t.rehome(n, place{t.state.index.dir, key}, &st, fd)
		return nil
	}
	if err := t.dirUp(n.parent); err != nil {
		return err
	}
	if err := t.publishQuietly(work, temp, n.parent, n.name); err != nil {
		if key != "" {
			err = errors.Join(err, t.state.index.remove(key))
		}
		return err
	}
	n.parent.dir.raise(n.name, t.edits)
	t.rehome(n, place{n.parent.upper(), n.name}, &st, fd)
	return nil
}

// keyOf is what the copy of n is called in an index. t.mu is held.
func (t *Tree) keyOf(n *Node) (string, error) {
	var st unix.Stat_t
	if n.part == nil {
		fd, h, err := t.fileLocked(n)
		if err != nil {
			return "", err
		}
		defer t.files.put(h)
		err = unix.Fstat(fd, &st)
		return indexKey(t.edits, &st), err
	}
	ok, err := n.part.stat(n.hostName(), &st)
	if err == nil && !ok {
		err = unix.ESTALE
	}
	return indexKey(n.part.layer, &st), err
}

// rehome moves n to its copy, which is open as fd.
func (t *Tree) rehome(n *Node, at place, st *unix.Stat_t, fd int) {
	h := new(handle)
	t.files.install(h, fd)
	if at.dir == nil {
		t.files.pin(h)
	}
	t.files.put(h)
	t.linkMu.Lock()
	if n.is(linked) {
		delete(t.links, n.linkKey())
		t.names.forget(n)
		n.unset(linked)
	}
	t.put(n, at)
	n.hostIno = st.Ino
	if at.dir != nil && st.Nlink > 1 {
		t.links[n.linkKey()] = n
		n.set(linked)
	}
	t.linkMu.Unlock()
	if old := n.fh.Swap(h); old != nil {
		t.files.retire(old)
	}
	// Last: who sees it, without a lock, writes to what n has open.
	if at.dir == nil {
		n.set(orphan)
	} else {
		n.unset(orphan)
	}
	t.setInEdits(n)
}

// copyFile copies the first size bytes of src into the empty dst, all for a
// negative size: by sharing the extents where the host can, else the data
// between the holes.
func copyFile(dst, src int, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if size < 0 || size >= st.Size {
		if unix.IoctlFileClone(dst, src) == nil {
			return nil
		}
		size = st.Size
	}
	if err := copyData(dst, src, 0, size); err != nil {
		return err
	}
	return unix.Ftruncate(dst, size)
}

// copyData copies what is between the holes of src from off up to end.
func copyData(dst, src int, off, end int64) error {
	for off < end {
		data, err := unix.Seek(src, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(src, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		off = min(hole, end)
		if err := copyRange(dst, src, data, off-data); err != nil {
			return err
		}
	}
	return nil
}

// copyRange copies length bytes at off, to the same place.
func copyRange(dst, src int, off, length int64) error {
	for length > 0 {
		in, out := off, off
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(length, 1<<30)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return copyBytes(dst, src, off, length)
		case err != nil:
			return err
		case n == 0:
			return nil // the source got shorter
		}
		off += int64(n)
		length -= int64(n)
	}
	return nil
}

// copyBytes is copyRange for hosts that can't.
func copyBytes(dst, src int, off, length int64) error {
	_, err := io.Copy(
		io.NewOffsetWriter(fdFile(dst), off),
		io.NewSectionReader(fdFile(src), off, length),
	)
	return err
}

// fdFile reads and writes a descriptor that somebody else closes.
type fdFile int

func (f fdFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := preadFull(int(f), p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f fdFile) WriteAt(p []byte, off int64) (int, error) { return pwriteFull(int(f), p, off) }

// xattrs reads all of the node's attributes that a person may see.
func (t *Tree) xattrs(n *Node) ([]Xattr, error) {
	names, err := t.listXattr(n)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	all := make([]Xattr, 0, len(names))
	for _, name := range names {
		v, err := t.getXattr(n, name)
		if errors.Is(err, xattr.ENOATTR) || errors.Is(err, os.ErrPermission) && strings.HasPrefix(name, "trusted.") {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		all = append(all, Xattr{Name: name, Value: v})
	}
	return all, nil
}
