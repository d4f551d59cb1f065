package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// recordedName is the host's name for an attribute of a recorded entry. The
// host itself keeps user.* of files and directories; everything else, and
// everything of a placeholder, is behind xattrForeign. Our own names can't be
// had from inside.
func recordedName(mode uint32, name string) (string, error) {
	switch {
	case strings.HasPrefix(name, xattrPrefix):
		return "", unix.EPERM
	case strings.HasPrefix(name, "user."):
		if typ := mode & unix.S_IFMT; typ != unix.S_IFREG && typ != unix.S_IFDIR {
			return "", unix.EPERM // as the kernel says
		}
		return name, nil
	case !shownXattr(name):
		return "", unix.EOPNOTSUPP
	}
	return xattrForeign + name, nil
}

// shownName is the reverse of recordedName; "" for a name that is not shown.
func shownName(host string) string {
	if name, ok := strings.CutPrefix(host, xattrForeign); ok {
		return name
	}
	if strings.HasPrefix(host, "user.") && !strings.HasPrefix(host, xattrPrefix) {
		return host
	}
	return ""
}

// shownXattr tells which attributes of a plain layer are shown: not the
// host's own labels, which would say nothing where the tree goes.
func shownXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, xattrPrefix):
		return false
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "trusted."):
		return true
	}
	return name == xattrCapability || name == xattrACLAccess || name == xattrACLDefault
}

// shows tells whether the node shows an attribute of this name: not what another
// overlay filesystem means by it.
func (n *Node) shows(name string) bool {
	if l := n.layer(); l != nil && l.asIs && foreignMark(name) != "" {
		return false
	}
	return shownXattr(name)
}

// hostPath is a path for the xattr calls, without following a symlink, and
// what closes it. t.mu is held.
func (t *Tree) hostPath(n *Node) (path string, done func(), err error) {
	if n.dir != nil {
		d := n.attrPart()
		fd, err := d.open()
		return procPath(fd, "."), d.close, err
	}
	if n.part == nil {
		fd, h, err := t.fileLocked(n)
		return procPath(fd, ""), func() { t.files.put(h) }, err
	}
	fd, err := n.part.open()
	return procPath(fd, n.hostName()), n.part.close, err
}

// recorded tells whether the node's attributes are kept as in record.go.
func (n *Node) recorded() bool {
	l := n.layer()
	return l == nil || l.recorded
}

// The calls on an orphan's path follow the link in /proc; all others don't.
func (n *Node) lget(path, name string) ([]byte, error) {
	if n.dir == nil && n.part == nil {
		return xattr.Get(path, name)
	}
	return xattr.LGet(path, name)
}

func (n *Node) llist(path string) ([]string, error) {
	if n.dir == nil && n.part == nil {
		return xattr.List(path)
	}
	return xattr.LList(path)
}

// GetXattr returns an extended attribute; ENODATA when there is none.
func (t *Tree) GetXattr(n *Node, name string) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.getXattr(n, name)
}

func (t *Tree) getXattr(n *Node, name string) ([]byte, error) {
	if !n.shows(name) {
		return nil, unix.ENODATA
	}
	host := name
	if n.recorded() {
		var err error
		if host, err = recordedName(n.typ, name); err != nil {
			return nil, unix.ENODATA
		}
	}
	// The kernel asks before the first write of each file, which is open then.
	// By a path through /proc that would take five times as long.
	if h := n.fh.Load(); h != nil && (t.inEdits(n) || n.is(dead)) {
		if t.files.isBare(h) {
			return nil, unix.ENODATA
		}
		if fd, ok := t.files.get(h); ok {
			defer t.files.put(h)
			return getXattrFd(fd, host)
		}
	}
	path, done, err := t.hostPath(n)
	if err != nil {
		return nil, err
	}
	defer done()
	return n.lget(path, host)
}

// getXattrFd reads an attribute of an open file.
func getXattrFd(fd int, name string) ([]byte, error) {
	var small [128]byte
	n, err := unix.Fgetxattr(fd, name, small[:])
	if err == nil {
		return bytes.Clone(small[:n]), nil
	}
	if !errors.Is(err, unix.ERANGE) {
		return nil, err
	}
	large := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err = unix.Fgetxattr(fd, name, large)
	return large[:max(n, 0)], err
}

// ListXattr returns the names of the extended attributes, sorted.
func (t *Tree) ListXattr(n *Node) ([]string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.listXattr(n)
}

func (t *Tree) listXattr(n *Node) ([]string, error) {
	names, err := t.hostXattrs(n)
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	if n.recorded() {
		for i, host := range names {
			names[i] = shownName(host)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !n.shows(name) })
	slices.Sort(names)
	return names, nil
}

// hostXattrs lists the names that the host has for n.
func (t *Tree) hostXattrs(n *Node) ([]string, error) {
	if fd, h, ok := t.lostFile(n); ok {
		defer t.files.put(h)
		return xattr.List(procPath(fd, ""))
	}
	var buf [1024]byte
	if k, ok, err := t.listXattrAt(n, buf[:]); ok || err != nil {
		return strings.FieldsFunc(string(buf[:k]), func(r rune) bool { return r == 0 }), err
	}
	path, done, err := t.hostPath(n)
	if err != nil {
		return nil, err
	}
	defer done()
	return n.llist(path)
}

// listXattrAt asks by directory and name (Linux 6.13), which takes a fifth of the
// time of a path through /proc: a walk asks for each entry, and most have none. It
// returns false where it can't be asked so, or buf is too small.
func (t *Tree) listXattrAt(n *Node, buf []byte) (int, bool, error) {
	dir, name := n.part, n.hostName()
	if n.dir != nil {
		dir, name = n.attrPart(), "."
	}
	if dir == nil || t.pathXattrs.Load() {
		return 0, false, nil
	}
	fd, err := dir.open()
	if err != nil {
		return 0, false, err
	}
	defer dir.close()
	k, err := llistxattrat(fd, name, buf)
	switch {
	case err == nil:
		return k, true, nil
	case errors.Is(err, unix.ERANGE):
		return 0, false, nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // EPERM: from a sandbox that doesn't know the call
		t.pathXattrs.Store(true)
		return 0, false, nil
	}
	return 0, false, err
}

// Xattrs returns all extended attributes, sorted by name.
func (t *Tree) Xattrs(n *Node) ([]Xattr, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.xattrs(n)
}

// SetXattr sets an extended attribute; flags are unix.XATTR_CREATE and
// XATTR_REPLACE. Attributes outside user.* are recorded, whoever runs the
// program.
func (t *Tree) SetXattr(n *Node, name string, value []byte, flags int) error {
	host, err := recordedName(n.typ, name)
	if err != nil {
		return err
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	switch {
	case name == xattrACLAccess:
		return t.setACL(n, host, value, flags)
	case name == xattrACLDefault && n.dir == nil:
		return unix.EACCES // as the kernel says
	}
	return t.change(n, func(fd int) error { return unix.Fsetxattr(fd, host, value, flags) })
}

// RemoveXattr removes an extended attribute; ENODATA when there is none.
func (t *Tree) RemoveXattr(n *Node, name string) error {
	host, err := recordedName(n.typ, name)
	if err != nil {
		return err
	}
	t.freeze.RLock()
	defer t.freeze.RUnlock()
	if _, err := t.GetXattr(n, name); err != nil {
		return err // before a copy-up that nothing needs
	}
	return t.change(n, func(fd int) error { return unix.Fremovexattr(fd, host) })
}
