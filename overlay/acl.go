package overlay

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Access control lists are kept, not enforced. What the kernel promises of
// them holds: they agree with the permission bits, whichever is changed, and
// a list that says no more than the bits is none (fs/posix_acl.c:
// posix_acl_update_mode, posix_acl_chmod), and what is made in a directory gets
// the directory's default list. cp -a and install set such lists.

const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

// aclEntry is a posix_acl_xattr_entry (linux/posix_acl_xattr.h).
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

const (
	aclVersion   = 2
	aclNoID      = 1<<32 - 1
	aclEntrySize = 8
)

// Tags of entries (linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// encodeACL makes the value of a list's extended attribute.
func encodeACL(entries []aclEntry) []byte {
	value := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.perm)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return value
}

// decodeACL is the reverse; EINVAL for what isn't a list.
func decodeACL(value []byte) ([]aclEntry, error) {
	if len(value) < 4 || (len(value)-4)%aclEntrySize != 0 || binary.LittleEndian.Uint32(value) != aclVersion {
		return nil, unix.EINVAL
	}
	var entries []aclEntry
	for b := value[4:]; len(b) > 0; b = b[aclEntrySize:] {
		entries = append(entries, aclEntry{
			tag:  binary.LittleEndian.Uint16(b),
			perm: binary.LittleEndian.Uint16(b[2:]) & 7,
			id:   binary.LittleEndian.Uint32(b[4:]),
		})
	}
	return entries, nil
}

// classes returns the entries that the permission bits of owner, group and
// others stand for: with a mask, that is the group's. nil is one that is
// missing.
func classes(entries []aclEntry) (c [3]*aclEntry, extended bool) {
	for i := range entries {
		e := &entries[i]
		switch e.tag {
		case aclUserObj:
			c[0] = e
		case aclGroupObj:
			if c[1] == nil {
				c[1] = e
			}
		case aclMask:
			c[1], extended = e, true
		case aclOther:
			c[2] = e
		default:
			extended = true
		}
	}
	return c, extended
}

// setACL sets the access list of n, and the permission bits by it.
func (t *Tree) setACL(n *Node, host string, value []byte, flags int) error {
	entries, err := decodeACL(value)
	if err != nil {
		return err
	}
	c, extended := classes(entries)
	var perm uint32
	for _, e := range c {
		if e == nil {
			return unix.EINVAL
		}
		perm = perm<<3 | uint32(e.perm)
	}
	return t.change(n, func(fd int) error {
		return editMetaAnd(fd, n.typ, func(m *meta) { m.mode = m.mode&^0o777 | perm }, func() error {
			if extended {
				return unix.Fsetxattr(fd, host, value, flags)
			}
			err := unix.Fremovexattr(fd, host)
			if errors.Is(err, unix.ENODATA) {
				return nil
			}
			return err
		})
	})
}

// chmodACL makes the access list of an open entry in the edits, if it has one,
// say what its new permission bits do.
func chmodACL(fd int, mode uint32) error {
	const host = xattrForeign + xattrACLAccess
	var buf [512]byte // 63 entries; longer ones are rare enough for a second call
	value := buf[:]
	size, err := unix.Fgetxattr(fd, host, value)
	if errors.Is(err, unix.ERANGE) {
		value = make([]byte, 1<<16)
		size, err = unix.Fgetxattr(fd, host, value)
	}
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := decodeACL(value[:size])
	if err != nil {
		return nil // recorded by an archive: no list, so nothing to agree with
	}
	c, _ := classes(entries)
	for i, e := range c {
		if e != nil {
			e.perm = uint16(mode>>(6-3*i)) & 7
		}
	}
	return unix.Fsetxattr(fd, host, encodeACL(entries), 0)
}

// bequest is what a directory gives to what is made in it.
type bequest struct {
	setGID bool // the group, and to directories the bit
	gid    uint32
	acl    []aclEntry // its default list; none where that is malformed
}

// bequestOf returns dir's, which is remembered until dir's attributes change.
// t.mu is held.
func (t *Tree) bequestOf(dir *Node) (*bequest, error) {
	if known := dir.dir.bequest.Load(); known != nil {
		return known, nil
	}
	var a attrs
	var e Entry
	if err := t.attrs(dir, &a); err != nil {
		return nil, err
	}
	dir.fill(&e, &a) // a file without a name can be made before dir is copied up
	value, err := t.getXattr(dir, xattrACLDefault)
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, err
	}
	b := &bequest{setGID: e.Mode&unix.S_ISGID != 0, gid: e.GID}
	b.acl, _ = decodeACL(value)
	if t.inEdits(dir) { // where nobody else changes it
		dir.dir.bequest.Store(b)
	}
	return b, nil
}

// inheritACL takes from the permissions of a new entry what its directory's
// default list doesn't grant, or where there is none the umask, and returns the
// entry's own lists by their names on the host. acl(5), "Object creation and
// default ACLs"; fs/posix_acl.c: posix_acl_create.
func inheritACL(defaults []aclEntry, m *meta, umask uint32) []Xattr {
	typ := m.mode & unix.S_IFMT
	if typ == unix.S_IFLNK {
		return nil
	}
	if len(defaults) == 0 {
		m.mode &^= umask & 0o777
		return nil
	}
	entries := slices.Clone(defaults)
	c, extended := classes(entries)
	for i, e := range c {
		if e != nil {
			shift := 6 - 3*i
			e.perm &= uint16(m.mode >> shift)
			m.mode = m.mode&^(7<<shift) | uint32(e.perm)<<shift
		}
	}
	var lists []Xattr
	if extended {
		lists = append(lists, Xattr{xattrForeign + xattrACLAccess, encodeACL(entries)})
	}
	if typ == unix.S_IFDIR {
		lists = append(lists, Xattr{xattrForeign + xattrACLDefault, encodeACL(defaults)})
	}
	return lists
}
