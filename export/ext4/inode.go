package ext4

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Offsets in an inode (struct ext4_inode), in bytes.
const (
	inodeBlock    = 0x28 // the block pointers
	inodeSumLow   = 0x7c
	inodeSumHigh  = 0x82
	inodeFields   = 0xa0 // where the fields end
	blockPointers = 60   // bytes of block pointers

	flagExtents = 0x80000

	sectorsPerBlock = blockSize / 512 // of i_blocks
)

// putInode writes an inode into b, which is zero.
func (pl *placed) putInode(b []byte, number uint32, node *inode, seed checksum) {
	le := binary.LittleEndian
	le.PutUint16(b[0x00:], node.mode)
	le.PutUint16(b[0x02:], uint16(node.uid))
	le.PutUint16(b[0x78:], uint16(node.uid>>16))
	le.PutUint16(b[0x18:], uint16(node.gid))
	le.PutUint16(b[0x7a:], uint16(node.gid>>16))
	size := node.diskSize()
	le.PutUint32(b[0x04:], uint32(size))
	le.PutUint32(b[0x6c:], uint32(size>>32))
	le.PutUint16(b[0x1a:], node.linkCount())
	putTimes(b, node)

	blocks := node.dataBlocks() + uint64(node.treeBlocks())
	if node.hasXattrBlock() {
		block, _ := pl.at(uint64(node.xattrBlock))
		le.PutUint32(b[0x68:], uint32(block))
		blocks++
	} else if len(node.xattrs()) > 0 {
		putInodeXattrs(b, node.xattrs())
	}
	sectors := blocks * sectorsPerBlock
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	pl.putPointers(b, node)
	sealInode(b, number, seed)
}

// sealInode puts the checksum.
func sealInode(b []byte, number uint32, seed checksum) {
	sum := seed.inode(number).add(b[:inodeSize])
	binary.LittleEndian.PutUint16(b[inodeSumLow:], uint16(sum))
	binary.LittleEndian.PutUint16(b[inodeSumHigh:], uint16(sum>>16))
}

// putPointers writes what the field of block pointers holds: an extent tree, a
// short symlink's target, or a device number.
func (pl *placed) putPointers(b []byte, node *inode) {
	le := binary.LittleEndian
	pointers := b[inodeBlock : inodeBlock+blockPointers]
	switch {
	case node.treeBlocks() > 0:
		copy(pointers, node.extra.root)
	case node.hasExtents():
		pl.putRoot(pointers, node)
	case node.isShortLink():
		copy(pointers, node.extra.target)
	case node.kind() == unix.S_IFCHR || node.kind() == unix.S_IFBLK:
		major, minor := node.extra.major, node.extra.minor
		if major < 256 && minor < 256 { // old_encode_dev
			le.PutUint32(pointers, major<<8|minor)
		} else { // new_encode_dev
			le.PutUint32(pointers[4:], minor&0xff|major<<8|minor>>8<<20)
		}
	}
	if node.hasExtents() {
		le.PutUint32(b[0x20:], flagExtents)
	}
}

func (i *inode) diskSize() int64 {
	if i.kind() == unix.S_IFDIR {
		return int64(i.extra.children.blocks()) * blockSize
	}
	return i.size
}

func (i *inode) linkCount() uint16 {
	if i.kind() == unix.S_IFDIR {
		return uint16(i.extra.children.links())
	}
	return uint16(i.links)
}

// Times reach from 1901 to 2446: 32 bits of seconds, signed, and 2 bits above
// them.
const (
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1
)

// putTimes writes the four times, all the same, and how many fields there are.
func putTimes(b []byte, node *inode) {
	le := binary.LittleEndian
	sec, nsec := node.sec, node.nsec
	if sec < minTime || sec > maxTime { // as the kernel clamps them
		sec, nsec = min(max(sec, minTime), maxTime), 0
	}
	low := uint32(sec)
	high := uint32((sec-int64(int32(low)))>>32) & 3
	for _, at := range []int{0x08, 0x0c, 0x10, 0x90} { // atime, ctime, mtime, crtime
		le.PutUint32(b[at:], low)
	}
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} { // the rest of each
		le.PutUint32(b[at:], high|nsec<<2)
	}
	le.PutUint16(b[0x80:], inodeFields-0x80) // i_extra_isize
}
