package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Flags of inodes made elsewhere.
const (
	flagIndex    = 0x1000 // a hashed directory
	flagHugeFile = 0x40000
	flagInline   = 0x10000000

	maxTarget = 4096 // of a symlink, in bytes
)

// node is an inode as it is read.
type node struct {
	number uint32
	at     int64 // where it is in the filesystem, in bytes
	raw    []byte
	seed   checksum // of what belongs to it
}

// node reads an inode and checks it.
func (r *Reader) node(number uint64) (*node, error) {
	n, err := r.rawNode(number)
	if err == nil {
		err = r.verifyNode(n)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	return n, nil
}

func (r *Reader) rawNode(number uint64) (*node, error) {
	s := &r.super
	if number == 0 || number > uint64(s.inodes) {
		return nil, fmt.Errorf("not between 1 and %d", s.inodes)
	}
	index := uint32(number - 1)
	g, err := r.group(index / s.inodesPerGroup)
	if err != nil {
		return nil, err
	}
	n := &node{number: uint32(number), raw: make([]byte, s.inodeSize)}
	n.at = int64(g.inodeTable*s.blockSize) + int64(index%s.inodesPerGroup)*int64(s.inodeSize)
	return n, readFull(r.src, n.raw, n.at)
}

// verifyNode checks the fields that everything else relies on.
func (r *Reader) verifyNode(n *node) error {
	n.seed = r.seed.addUint32(n.number).addUint32(binary.LittleEndian.Uint32(n.raw[0x64:]))
	if r.super.metadataSums() && !n.sumHolds() {
		return errSum
	}
	if 128+n.extraSize() > len(n.raw) || n.extraSize()%4 != 0 {
		return fmt.Errorf("%d bytes of further fields don't fit", n.extraSize())
	}
	if n.size(r) < 0 {
		return fmt.Errorf("a size of %d", uint64(n.size(r)))
	}
	return nil
}

// sumHolds tells whether the inode's checksum is right. Its upper half is a
// later field, which small inodes don't have.
func (n *node) sumHolds() bool {
	le := binary.LittleEndian
	zero := []byte{0, 0}
	sum := n.seed.add(n.raw[:inodeSumLow]).add(zero).add(n.raw[inodeSumLow+2 : 128])
	if len(n.raw) == 128 {
		return uint16(sum) == le.Uint16(n.raw[inodeSumLow:])
	}
	if 128+n.extraSize() < inodeSumHigh+2 {
		return uint16(sum.add(n.raw[128:])) == le.Uint16(n.raw[inodeSumLow:])
	}
	sum = sum.add(n.raw[128:inodeSumHigh]).add(zero).add(n.raw[inodeSumHigh+2:])
	return uint32(sum) == uint32(le.Uint16(n.raw[inodeSumLow:]))|uint32(le.Uint16(n.raw[inodeSumHigh:]))<<16
}

func (n *node) u16(at int) uint32 { return uint32(binary.LittleEndian.Uint16(n.raw[at:])) }
func (n *node) u32(at int) uint32 { return binary.LittleEndian.Uint32(n.raw[at:]) }

func (n *node) mode() uint32  { return n.u16(0x00) }
func (n *node) kind() uint32  { return n.mode() & unix.S_IFMT }
func (n *node) links() uint32 { return n.u16(0x1a) }
func (n *node) flags() uint32 { return n.u32(0x20) }

func (n *node) xattrBlock() uint64 { return uint64(n.u32(0x68)) | uint64(n.u16(0x76))<<32 }

func (n *node) pointers() []byte { return n.raw[inodeBlock : inodeBlock+blockPointers] }

// extraSize is how many bytes of fields follow the first 128.
func (n *node) extraSize() int {
	if len(n.raw) == 128 {
		return 0
	}
	return int(n.u16(0x80))
}

// size is the inode's length in bytes. Old directories have something else in
// its upper half.
func (n *node) size(r *Reader) int64 {
	size := int64(n.u32(0x04))
	if n.kind() == unix.S_IFREG || n.kind() == unix.S_IFDIR && r.super.incompat&incompatLargeDir != 0 {
		size |= int64(n.u32(0x6c)) << 32
	}
	return size
}

// sectors is how many units of 512 bytes the inode takes.
func (n *node) sectors(r *Reader) uint64 {
	v := uint64(n.u32(0x1c)) | uint64(n.u16(0x74))<<32
	if n.flags()&flagHugeFile != 0 {
		v *= r.super.blockSize / 512
	}
	return v
}

// time reads a timestamp, whose further bits are at extra.
func (n *node) time(at, extra int) overlay.Time {
	t := overlay.Time{Sec: int64(int32(n.u32(at)))}
	if extra+4 <= 128+n.extraSize() {
		v := n.u32(extra)
		t.Sec += int64(v&3) << 32
		t.Nsec = min(v>>2, 999_999_999)
	}
	return t
}

// rdev reads a device number, in either of its two forms.
func (n *node) rdev() uint64 {
	if v := n.u32(inodeBlock); v != 0 {
		return unix.Mkdev(v>>8&0xff, v&0xff)
	}
	v := n.u32(inodeBlock + 4)
	return unix.Mkdev(v>>8&0xfff, v&0xff|v>>12&0xfff00)
}

// isShortLink tells whether a symlink's target is where block pointers would
// be.
func (n *node) isShortLink(r *Reader) bool {
	return n.kind() == unix.S_IFLNK && n.size(r) < blockPointers && n.flags()&(flagExtents|flagInline) == 0
}

// Stat fills e with what is known of an inode: all but Path and Content. An
// error names the inode.
func (r *Reader) Stat(number uint64, e *overlay.Entry) error {
	n, err := r.node(number)
	if err != nil {
		return err
	}
	*e = overlay.Entry{
		Mode: n.mode(), UID: n.u16(0x02) | n.u16(0x78)<<16, GID: n.u16(0x18) | n.u16(0x7a)<<16,
		Blocks: int64(n.sectors(r)), Ino: number, Nlink: n.links(),
		Atime: n.time(0x08, 0x8c), Ctime: n.time(0x0c, 0x84), Mtime: n.time(0x10, 0x88),
	}
	switch n.kind() {
	case unix.S_IFREG:
		e.Size = n.size(r)
	case unix.S_IFLNK:
		e.Size = n.size(r)
		e.Target, err = r.target(n)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = n.rdev()
	case unix.S_IFDIR, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		err = fmt.Errorf("mode %#o has no type", n.mode())
	}
	if err == nil {
		e.Xattrs, err = r.xattrs(n)
	}
	if err != nil {
		return fmt.Errorf("inode %d: %w", number, err)
	}
	return nil
}

// target reads a symlink's target.
func (r *Reader) target(n *node) (string, error) {
	size := n.size(r)
	if size > maxTarget {
		return "", fmt.Errorf("a symlink of %d bytes", size)
	}
	b := make([]byte, size)
	err := r.extents(n, func(file, image, length int64) error {
		return readFull(r.src, b[file:file+length], image)
	})
	if err == nil && (size == 0 || bytes.IndexByte(b, 0) >= 0) {
		err = errors.New("a symlink without a target, or one that has a NUL byte")
	}
	return string(b), err
}

// Extents calls yield with each part of an inode's content that isn't a hole:
// its offset in the file, in the filesystem, and its length, in bytes. Parts
// come in order and don't overlap; those written next to each other are one.
// An error of yield ends it.
func (r *Reader) Extents(number uint64, yield func(file, image, length int64) error) error {
	n, err := r.node(number)
	if err != nil {
		return err
	}
	if err := r.extents(n, yield); err != nil {
		return fmt.Errorf("inode %d: %w", number, err)
	}
	return nil
}

func (r *Reader) extents(n *node, yield func(file, image, length int64) error) error {
	size := n.size(r)
	switch n.kind() {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
	default:
		return nil
	}
	switch {
	case n.flags()&flagInline != 0:
		return r.inlineExtents(n, yield)
	case n.isShortLink(r):
		return yield(0, n.at+inodeBlock, size)
	}
	unit := int64(r.super.blockSize)
	var file, image, length int64 // a part that may go on
	err := r.mapped(n, func(m mapping) error {
		if m.unwritten || int64(m.logical) >= (size+unit-1)/unit {
			return nil // reads as zeros, or was allocated beyond the end
		}
		at, to := int64(m.logical)*unit, int64(m.physical)*unit
		more := min(int64(m.count)*unit, size-at)
		if length > 0 && file+length == at && image+length == to {
			length += more
			return nil
		}
		var err error
		if length > 0 {
			err = yield(file, image, length)
		}
		file, image, length = at, to, more
		return err
	}, nil)
	if err == nil && length > 0 {
		err = yield(file, image, length)
	}
	return err
}

// inlineExtents tells where small content is: in the place of the block
// pointers, and what doesn't fit there in an attribute of the inode.
func (r *Reader) inlineExtents(n *node, yield func(file, image, length int64) error) error {
	size := n.size(r)
	if err := yield(0, n.at+inodeBlock, min(size, blockPointers)); err != nil || size <= blockPointers {
		return err
	}
	at, length, err := n.inlineRest()
	if err != nil {
		return err
	}
	if size-blockPointers > length {
		return fmt.Errorf("content of %d bytes is kept in the inode, which has room for %d: %w", size, blockPointers+length, io.ErrUnexpectedEOF)
	}
	return yield(blockPointers, n.at+at, size-blockPointers)
}
