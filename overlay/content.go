package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Read reads from a regular file at off. It returns less than len(p) only at
// the end of the file.
func (t *Tree) Read(n *Node, p []byte, off int64) (int, error) {
	fd, h, err := t.file(n)
	if err != nil {
		return 0, err
	}
	defer t.files.put(h)
	return preadFull(fd, p, off)
}

// Write writes to a regular file at off, which copies it up first.
func (t *Tree) Write(n *Node, p []byte, off int64) (int, error) {
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	fd, h, err := t.writable(n)
	if err != nil {
		return 0, err
	}
	defer t.files.put(h)
	return pwriteFull(fd, p, off)
}

// Append writes to the end of a regular file, which copies it up first, and
// returns where that was.
func (t *Tree) Append(n *Node, p []byte) (written int, at int64, err error) {
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	fd, h, err := t.writable(n)
	if err != nil {
		return 0, 0, err
	}
	defer t.files.put(h)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, 0, err
	}
	written, err = pwriteFull(fd, p, st.Size)
	return written, st.Size, err
}

// writable returns the descriptor of n's copy in the edits.
func (t *Tree) writable(n *Node) (int, *handle, error) {
	if t.state == nil {
		return -1, nil, unix.EROFS
	}
	if n.typ != unix.S_IFREG {
		return -1, nil, unix.EINVAL
	}
	if err := t.copyUp(n); err != nil {
		return -1, nil, err
	}
	return t.file(n)
}

// Seek finds data or a hole from off on: whence is unix.SEEK_DATA or
// unix.SEEK_HOLE. It returns ENXIO where there is none.
func (t *Tree) Seek(n *Node, off int64, whence int) (int64, error) {
	fd, h, err := t.file(n)
	if err != nil {
		return 0, err
	}
	defer t.files.put(h)
	return unix.Seek(fd, off, whence)
}

// Allocate is fallocate(2): mode holds its FALLOC_FL flags.
func (t *Tree) Allocate(n *Node, mode uint32, off, length int64) error {
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	fd, h, err := t.writable(n)
	if err != nil {
		return err
	}
	defer t.files.put(h)
	return retry(func() error { return unix.Fallocate(fd, mode, off, length) })
}

// CopyRange copies between files as copy_file_range(2) does and returns how
// much, which may be less than length.
func (t *Tree) CopyRange(src *Node, srcOff int64, dst *Node, dstOff int64, length int) (int, error) {
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	out, outH, err := t.writable(dst)
	if err != nil {
		return 0, err
	}
	defer t.files.put(outH)
	in, inH, err := t.file(src)
	if err != nil {
		return 0, err
	}
	defer t.files.put(inH)
	return unix.CopyFileRange(in, &srcOff, out, &dstOff, length, 0)
}

// Sync brings a file's content, or a directory's names, to the disk; without
// the attributes that reading doesn't need when dataOnly.
func (t *Tree) Sync(n *Node, dataOnly bool) error {
	t.mu.RLock()
	l := n.layer()
	edited := (l == nil || l.edit) && !(n.dir != nil && n.is(dead))
	t.mu.RUnlock()
	if !edited {
		return nil // nothing was changed
	}
	if n.dir != nil {
		t.mu.RLock()
		defer t.mu.RUnlock()
		up, err := n.upper().open()
		if err != nil {
			return err
		}
		defer n.upper().close()
		return withDirFd(up, ".", unix.Fsync)
	}
	fd, h, err := t.file(n)
	if err != nil {
		return err
	}
	defer t.files.put(h)
	if dataOnly {
		return unix.Fdatasync(fd)
	}
	return unix.Fsync(fd)
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func preadFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return done, err
		}
		done += n
	}
	return done, nil
}

func pwriteFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			if done > 0 {
				return done, nil // as write(2): what fitted counts
			}
			return 0, err
		}
		done += n
	}
	return done, nil
}
