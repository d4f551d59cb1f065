package device

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// What can be announced: codes of enum fuse_notify_code in
// include/uapi/linux/fuse.h.
const (
	invalInode = 2
	invalEntry = 3

	expireOnly = 1 // FUSE_EXPIRE_ONLY, a flag of invalEntry
)

// InvalidateEntry has the kernel forget what it knows of a name in the directory
// that it calls parent, its absence also; what is mounted there goes. ENOENT means
// that it knew nothing.
func (d *Device) InvalidateEntry(parent uint64, name string) error {
	return d.announceEntry(parent, name, 0)
}

// ExpireEntry has the kernel ask for a name again before it believes what it knows.
// Where the name still stands for the same, all stays. Linux before 6.2 takes it
// for InvalidateEntry.
func (d *Device) ExpireEntry(parent uint64, name string) error {
	return d.announceEntry(parent, name, expireOnly)
}

func (d *Device) announceEntry(parent uint64, name string, flags uint32) error {
	ne := binary.NativeEndian
	body := ne.AppendUint64(nil, parent) // fuse_notify_inval_entry_out
	body = ne.AppendUint32(body, uint32(len(name)))
	body = ne.AppendUint32(body, flags)
	body = append(body, name...)
	return d.announce(invalEntry, append(body, 0))
}

// InvalidateInode has the kernel forget a node's attributes and all of its
// cached content, or listing. ENOENT means that it doesn't know the node.
func (d *Device) InvalidateInode(id uint64) error { return d.announceInode(id, 0) }

// InvalidateAttributes has the kernel forget a node's attributes alone, so it waits
// for nothing.
func (d *Device) InvalidateAttributes(id uint64) error { return d.announceInode(id, -1) }

func (d *Device) announceInode(id uint64, off int64) error {
	ne := binary.NativeEndian
	body := ne.AppendUint64(nil, id) // fuse_notify_inval_inode_out
	body = ne.AppendUint64(body, uint64(off))
	body = ne.AppendUint64(body, 0) // length: up to the end
	return d.announce(invalInode, body)
}

// announce writes a message that no request has asked for. It returns EBADF when
// the mount is gone.
func (d *Device) announce(code uint32, body []byte) error {
	ne := binary.NativeEndian
	message := ne.AppendUint32(nil, uint32(beforeRead+len(body))) // fuse_out_header
	message = ne.AppendUint32(message, code)
	message = ne.AppendUint64(message, 0) // no request
	message = append(message, body...)
	d.announcing.RLock()
	defer d.announcing.RUnlock()
	if d.closed {
		return unix.EBADF
	}
	for {
		if _, err := unix.Write(d.fd, message); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
