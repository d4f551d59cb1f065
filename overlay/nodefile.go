package overlay

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The host's file that has a node's content.

// file returns a descriptor of the node's content and the handle to put back
// afterwards. t.mu is not held.
func (t *Tree) file(n *Node) (int, *handle, error) {
	if h := n.fh.Load(); h != nil {
		if fd, ok := t.files.get(h); ok {
			return fd, h, nil
		}
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.fileLocked(n)
}

// fileLocked is file for who holds t.mu.
func (t *Tree) fileLocked(n *Node) (int, *handle, error) {
	h := n.fh.Load()
	if h == nil {
		h = new(handle)
		if !n.fh.CompareAndSwap(nil, h) {
			h = n.fh.Load()
		}
	}
	if fd, ok := t.files.get(h); ok {
		return fd, h, nil
	}
	fd, err := n.openHost()
	if err != nil {
		return -1, nil, err
	}
	return t.files.install(h, fd), h, nil
}

// lostFile returns the descriptor of a removed file that has one open, and the
// handle to put back: its layer may have another file by its name.
func (t *Tree) lostFile(n *Node) (int, *handle, bool) {
	h := n.fh.Load()
	if h == nil || !n.is(dead) {
		return -1, nil, false
	}
	fd, ok := t.files.get(h)
	return fd, h, ok
}

// openHost opens the host's file: for writing too when it is in the edits, also
// in frozen ones, since the checkpoint may be taken back while it is open.
func (n *Node) openHost() (int, error) {
	if n.part == nil {
		return -1, unix.ESTALE
	}
	l := n.part.layer
	if !l.edit || l.tree.state == nil {
		return n.at().open(unix.O_RDONLY)
	}
	fd, err := n.at().open(unix.O_RDWR)
	if l != l.tree.edits && errors.Is(err, unix.EACCES) { // somebody else's
		return n.at().open(unix.O_RDONLY)
	}
	return fd, err
}

func (p place) open(flags int) (int, error) {
	dirfd, err := p.dir.open()
	if err != nil {
		return -1, err
	}
	defer p.dir.close()
	// O_NONBLOCK: a layer's owner may put a fifo where there was a file.
	fd, err := openRetry(dirfd, p.name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", p, err)
	}
	if p.dir.layer.asIs {
		if err := checkData(fd); err != nil {
			return -1, errors.Join(fmt.Errorf("%s: %w", p, err), unix.Close(fd))
		}
	}
	return fd, nil
}

// Open implements [Content].
func (p place) Open() (*File, error) {
	fd, err := p.open(unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return NewFile(fd, p.name), nil
}

// String names the host's file, for messages.
func (p place) String() string { return filepath.Join(p.dir.hostPath(), p.name) }

// Content returns the bytes of a regular file as they are on the host, without
// the node: an export keeps a million of them. It is for a tree that is open
// to read, where files don't move.
func (t *Tree) Content(n *Node) Content {
	t.mu.RLock()
	defer t.mu.RUnlock()
	at := n.at()
	return &at
}

// Open implements [Content].
func (n *Node) Open() (*File, error) {
	fd, err := n.openHost()
	if err != nil {
		return nil, err
	}
	return NewFile(fd, n.hostName()), nil
}

// String names the host's file, for messages.
func (n *Node) String() string {
	if n.part == nil {
		return n.path()
	}
	return n.at().String()
}
