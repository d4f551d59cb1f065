package overlay

import "golang.org/x/sys/unix"

// Stat fills e with the node's attributes: all but Path, Target and Xattrs.
func (t *Tree) Stat(n *Node, e *Entry) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var a attrs
	if err := t.attrs(n, &a); err != nil {
		return err
	}
	n.fill(e, &a)
	return nil
}

// attrs reads the node's attributes from the host. t.mu is held.
func (t *Tree) attrs(n *Node, a *attrs) error {
	switch {
	case n.dir != nil:
		return n.dirAttrs(a)
	case n.part == nil:
		return t.orphanAttrs(n, a)
	}
	if fd, h, ok := t.lostFile(n); ok {
		defer t.files.put(h)
		return a.of(fd, n.part.layer)
	}
	ok, err := n.part.look(n.hostName(), a)
	if err == nil && !ok {
		err = unix.ESTALE
	}
	return err
}

// attrPart is the directory of the stack whose attributes are shown.
func (n *Node) attrPart() *hostDir {
	for _, d := range n.dir.stack {
		if d.layer.implicit == nil || !d.layer.implicit[d.path()] {
			return d
		}
	}
	return n.dir.stack[0]
}

func (n *Node) dirAttrs(a *attrs) error {
	d := n.attrPart()
	if d.parent != nil && !n.is(dead) {
		ok, err := d.parent.look(d.name, a)
		if err == nil && !ok {
			err = unix.ESTALE
		}
		return err
	}
	fd, err := d.open()
	if err != nil {
		return err
	}
	defer d.close()
	if err := unix.Fstat(fd, &a.st); err != nil {
		return err
	}
	if !d.layer.recorded {
		a.m = d.layer.plainMeta(&a.st)
		return nil
	}
	a.m, err = metaAt(procPath(fd, "."), &a.st)
	return err
}

// orphanAttrs reads the attributes of a file that the host has no name for.
func (t *Tree) orphanAttrs(n *Node, a *attrs) error {
	fd, h, err := t.fileLocked(n)
	if err != nil {
		return err
	}
	defer t.files.put(h)
	return a.of(fd, nil)
}

// of reads the attributes of an open file, of the edits or of another layer.
func (a *attrs) of(fd int, l *Layer) (err error) {
	if err := unix.Fstat(fd, &a.st); err != nil {
		return err
	}
	if l != nil && !l.recorded {
		a.m = l.plainMeta(&a.st)
		return nil
	}
	a.m, err = metaOf(fd, a.st.Mode)
	return err
}

// fill makes an entry of a node's attributes.
func (n *Node) fill(e *Entry, a *attrs) {
	*e = Entry{
		Mode: a.m.mode, UID: a.m.uid, GID: a.m.gid, Rdev: a.m.rdev,
		Atime: TimeOf(a.st.Atim), Mtime: TimeOf(a.st.Mtim), Ctime: TimeOf(a.st.Ctim),
		Ino: n.ino, Nlink: uint32(a.st.Nlink),
	}
	switch n.typ {
	case unix.S_IFREG:
		e.Size, e.Blocks, e.Content = a.st.Size, a.st.Blocks, n
	case unix.S_IFLNK:
		if e.Size = a.st.Size; a.m.target != "" {
			e.Size = int64(len(a.m.target))
		}
	case unix.S_IFCHR, unix.S_IFBLK:
	default:
		e.Rdev = 0
	}
	if n.dir != nil {
		if len(n.dir.stack) > 1 {
			e.Nlink = 1 // as overlayfs: not known without reading all parts
		}
		e.Blocks = a.st.Blocks
	} else if a.m.nlink != 0 {
		e.Nlink = a.m.nlink
	}
	if n.is(dead) {
		e.Nlink = 0
	}
	l := n.layer()
	if l != nil {
		e.Layer = l.Name
	}
	if l != nil && !l.edit && n.is(overridden) {
		l.tree.overrideOf(n).apply(e)
	}
	if l != nil && l.mtime != nil {
		e.Atime, e.Mtime, e.Ctime = *l.mtime, *l.mtime, *l.mtime
	}
}

// layer is the one that the node's attributes come from; nil for a file
// without a name.
func (n *Node) layer() *Layer {
	if n.dir != nil {
		return n.attrPart().layer
	}
	if n.part == nil {
		return nil
	}
	return n.part.layer
}

// Origin returns the name of the layer that the node comes from.
func (t *Tree) Origin(n *Node) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := n.layer(); l != nil {
		return l.Name
	}
	return "edits"
}

// Readlink returns a symlink's target.
func (t *Tree) Readlink(n *Node) (string, error) {
	if n.typ != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n.part != nil {
		dirfd, err := n.part.open()
		if err != nil {
			return "", err
		}
		defer n.part.close()
		return readTarget(dirfd, n.hostName(), n.part.layer.recorded)
	}
	fd, h, err := t.fileLocked(n)
	if err != nil {
		return "", err
	}
	defer t.files.put(h)
	return recordedTarget(fd)
}

// DirEntry is one name of a directory.
type DirEntry struct {
	Name   string
	Type   uint32 // S_IFMT bits; 0 where only Lookup can tell
	Cookie uint64 // above 0, rising
}

// ReadDir fills buf with the names of dir that come after cookie, 0 for the
// first, without "." and "..". At the end it fills less. Cookies stay valid
// while dir is referenced, also when names come and go.
func (t *Tree) ReadDir(dir *Node, cookie uint64, buf []DirEntry) (int, error) {
	d := dir.dir
	if d == nil {
		return 0, unix.ENOTDIR
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if dir.is(dead) {
		return 0, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := t.load(dir); err != nil {
		return 0, err
	}
	n := 0
	for i := d.after(cookie); i < len(d.ents) && n < len(buf); i++ {
		e := &d.ents[i]
		if e.dead {
			continue
		}
		buf[n] = DirEntry{Name: e.name, Type: direntType(e), Cookie: uint64(e.cookie)}
		n++
	}
	return n, nil
}

// direntType is the type of an entry as far as its directory tells it.
func direntType(e *dirent) uint32 {
	if e.node != nil {
		return e.node.typ
	}
	if e.typ == unix.DT_REG && e.layer.recorded {
		return 0 // may be a placeholder
	}
	return uint32(e.typ) << 12
}

// after returns the index of the first entry behind cookie.
func (d *directory) after(cookie uint64) int {
	lo, hi := 0, len(d.ents)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if uint64(d.ents[mid].cookie) <= cookie {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Statfs describes the host filesystem that takes the edits.
func (t *Tree) Statfs(st *unix.Statfs_t) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.edits
	if l == nil {
		l = t.layers[len(t.layers)-1]
	}
	fd, err := l.root.open()
	if err != nil {
		return err
	}
	defer l.root.close()
	return unix.Fstatfs(fd, st)
}
