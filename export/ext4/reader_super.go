package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// super is what a reader needs of a superblock (struct ext4_super_block).
type super struct {
	raw []byte

	blocks, blockSize          uint64
	inodes                     uint32
	firstBlock                 uint32 // 1 with blocks of 1 KiB, else 0
	blocksPerGroup             uint32
	inodesPerGroup             uint32
	inodeSize, descSize        int
	firstInode                 uint32 // that isn't reserved
	firstMetaBG                uint32
	compat, incompat, roCompat uint32
}

// errSum is the error of a checksum that doesn't hold.
var errSum = errors.New("the checksum is wrong")

func (s *super) parse(b []byte) error {
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != 0xef53 {
		return errors.New("no ext2, ext3 or ext4 filesystem here")
	}
	s.raw = b
	s.firstInode, s.inodeSize, s.descSize = 11, 128, 32
	if le.Uint32(b[0x4c:]) > 0 { // revision 0 has neither
		s.firstInode, s.inodeSize = le.Uint32(b[0x54:]), int(le.Uint16(b[0x58:]))
		s.compat, s.incompat, s.roCompat = le.Uint32(b[0x5c:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	}
	if err := refused(s.incompat); err != nil {
		return err
	}
	s.blocks = uint64(le.Uint32(b[0x04:]))
	if s.incompat&incompat64bit != 0 {
		s.blocks |= uint64(le.Uint32(b[0x150:])) << 32
		s.descSize = int(le.Uint16(b[0xfe:]))
	}
	if shift := le.Uint32(b[0x18:]); shift <= 6 {
		s.blockSize = 1024 << shift
	}
	s.inodes, s.firstBlock = le.Uint32(b[0x00:]), le.Uint32(b[0x14:])
	s.blocksPerGroup, s.inodesPerGroup = le.Uint32(b[0x20:]), le.Uint32(b[0x28:])
	s.firstMetaBG = le.Uint32(b[0x104:])
	if err := s.plausible(); err != nil {
		return err
	}
	if s.metadataSums() && uint32(newChecksum.add(b[:superSize-4])) != le.Uint32(b[superSize-4:]) {
		return errSum
	}
	return nil
}

// plausible checks the numbers that all others are computed from.
func (s *super) plausible() error {
	groups := (s.blocks + uint64(s.blocksPerGroup)) / max(uint64(s.blocksPerGroup), 1)
	perGroup := 8 * s.blockSize
	if s.bigalloc() {
		perGroup <<= 16
	}
	switch {
	case s.blockSize == 0:
		return errors.New("the block size is none that ext4 has")
	case s.blocks <= uint64(s.firstBlock) || s.blocks >= 1<<63/s.blockSize || s.firstBlock > 1:
		return fmt.Errorf("%d blocks from %d on is no size", s.blocks, s.firstBlock)
	case s.blocksPerGroup < 256 || uint64(s.blocksPerGroup) > perGroup:
		return fmt.Errorf("%d blocks a group don't fit a bitmap", s.blocksPerGroup)
	case s.inodesPerGroup == 0 || uint64(s.inodesPerGroup) > 8*s.blockSize:
		return fmt.Errorf("%d inodes a group don't fit a bitmap", s.inodesPerGroup)
	case groups >= 1<<32:
		return fmt.Errorf("%d groups of blocks are more than ext4 has", groups)
	case s.inodeSize < 128 || s.inodeSize&(s.inodeSize-1) != 0 || uint64(s.inodeSize) > s.blockSize:
		return fmt.Errorf("inodes can't have %d bytes", s.inodeSize)
	case s.descSize < 32 || s.descSize&(s.descSize-1) != 0 || uint64(s.descSize) > s.blockSize:
		return fmt.Errorf("group descriptors can't have %d bytes", s.descSize)
	case s.inodes < rootInode || uint64(s.inodes) > groups*uint64(s.inodesPerGroup):
		return fmt.Errorf("%d inodes don't fit the groups", s.inodes)
	}
	return nil
}

func (s *super) metadataSums() bool { return s.roCompat&roCompatMetadataSum != 0 }

func (s *super) bigalloc() bool { return s.roCompat&roCompatBigalloc != 0 }

// seed returns what all checksums but the superblock's begin with.
func (s *super) seed() checksum {
	if s.incompat&incompatSumSeed != 0 {
		return checksum(binary.LittleEndian.Uint32(s.raw[0x270:]))
	}
	return newChecksum.add(s.raw[0x68:0x78]) // the UUID
}

func (s *super) groups() uint32 {
	return uint32((s.blocks - uint64(s.firstBlock) + uint64(s.blocksPerGroup) - 1) / uint64(s.blocksPerGroup))
}

// groupStart returns a group's first block.
func (s *super) groupStart(group uint32) uint64 {
	return uint64(s.firstBlock) + uint64(group)*uint64(s.blocksPerGroup)
}

// groupLen returns how many blocks a group has, which is less in the last one.
func (s *super) groupLen(group uint32) uint64 {
	return min(uint64(s.blocksPerGroup), s.blocks-s.groupStart(group))
}

// hasBackup tells whether a group holds a copy of the superblock.
func (s *super) hasBackup(group uint32) bool {
	le := binary.LittleEndian
	switch {
	case group == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return group == le.Uint32(s.raw[0x24c:]) || group == le.Uint32(s.raw[0x250:])
	case s.roCompat&roCompatSparseSuper == 0:
		return true
	}
	return hasSuper(group)
}

func (s *super) descsInBlock() uint32 { return uint32(s.blockSize) / uint32(s.descSize) }

// descBlocks returns how many blocks the table of descriptors has.
func (s *super) descBlocks() uint32 {
	return (s.groups() + s.descsInBlock() - 1) / s.descsInBlock()
}

// inMetaGroup tells whether a block of the descriptor table is in the group
// that it describes (meta_bg) and not behind the superblock.
func (s *super) inMetaGroup(index uint32) bool {
	return s.incompat&incompatMetaBG != 0 && index >= s.firstMetaBG
}

// descBlock returns where a block of the table of descriptors is: with the
// superblock copy of a group, 0 for the primary. In a metagroup copies are
// elsewhere, and only the first is found.
func (s *super) descBlock(index, copyGroup uint32) uint64 {
	if s.inMetaGroup(index) {
		first := index * s.descsInBlock()
		if !s.hasBackup(first) {
			return s.groupStart(first)
		}
		copyGroup, index = first, 0
	}
	if copyGroup == 0 { // with bigalloc, blocks of 1 KiB are counted from 0 as well
		return superOffset/s.blockSize + 1 + uint64(index)
	}
	return s.groupStart(copyGroup) + 1 + uint64(index)
}

// groupDesc is a group descriptor as it is read (struct ext4_group_desc).
type groupDesc struct {
	descriptor
	flags  uint16
	unused uint32 // inodes at the end of the table that were never used
	number uint32
	sumOK  bool
}

// Flags of groups whose bitmaps and tables were never written.
const (
	groupInodesUninit = 0x1
	groupBlocksUninit = 0x2
)

// group returns a group's descriptor. Its tables lie in the filesystem.
func (r *Reader) group(number uint32) (groupDesc, error) {
	if d, ok := r.groups[number]; ok {
		return d, nil
	}
	s := &r.super
	if number >= s.groups() {
		return groupDesc{}, fmt.Errorf("group %d is outside the filesystem", number)
	}
	index := number / s.descsInBlock()
	b := make([]byte, s.descSize)
	off := int64(s.descBlock(index, 0)*s.blockSize) + int64(number%s.descsInBlock())*int64(s.descSize)
	if err := readFull(r.src, b, off); err != nil {
		return groupDesc{}, fmt.Errorf("group %d: %w", number, err)
	}
	d := r.parseGroup(b, number)
	for _, t := range []struct {
		what         string
		first, count uint64
	}{
		{"block bitmap", d.blockBitmap, 1},
		{"inode bitmap", d.inodeBitmap, 1},
		{"inode table", d.inodeTable, r.tableBlocks()},
	} {
		if err := r.inRange(t.first, t.count); err != nil {
			return groupDesc{}, fmt.Errorf("group %d: %s: %w", number, t.what, err)
		}
	}
	r.groups[number] = d
	return d, nil
}

// tableBlocks returns how many blocks a group's inode table has.
func (r *Reader) tableBlocks() uint64 {
	s := &r.super
	return (uint64(s.inodesPerGroup)*uint64(s.inodeSize) + s.blockSize - 1) / s.blockSize
}

func (r *Reader) parseGroup(b []byte, number uint32) groupDesc {
	le := binary.LittleEndian
	wide := len(b) >= 64
	join32 := func(low, high int) uint64 {
		v := uint64(le.Uint32(b[low:]))
		if wide {
			v |= uint64(le.Uint32(b[high:])) << 32
		}
		return v
	}
	join16 := func(low, high int) uint32 {
		v := uint32(le.Uint16(b[low:]))
		if wide {
			v |= uint32(le.Uint16(b[high:])) << 16
		}
		return v
	}
	d := groupDesc{
		descriptor: descriptor{
			blockBitmap: join32(0x00, 0x20), inodeBitmap: join32(0x04, 0x24), inodeTable: join32(0x08, 0x28),
			freeBlocks: join16(0x0c, 0x2c), freeInodes: join16(0x0e, 0x2e), dirs: join16(0x10, 0x30),
			blockSum: checksum(join16(0x18, 0x38)), inodeSum: checksum(join16(0x1a, 0x3a)),
		},
		flags: le.Uint16(b[0x12:]), unused: join16(0x1c, 0x32), number: number, sumOK: true,
	}
	stored := le.Uint16(b[0x1e:])
	switch s := &r.super; {
	case s.metadataSums():
		sum := r.seed.addUint32(number).add(b[:0x1e]).add([]byte{0, 0}).add(b[0x20:])
		d.sumOK = uint16(sum) == stored
	case s.roCompat&roCompatGroupSum != 0:
		sum := crc16(0xffff, s.raw[0x68:0x78])
		sum = crc16(sum, le.AppendUint32(nil, number))
		sum = crc16(sum, b[:0x1e])
		d.sumOK = crc16(sum, b[0x20:]) == stored
	default:
		d.flags = 0 // without checksums these flags mean nothing
	}
	return d
}

// crc16 is the CRC-16 of the older checksums of group descriptors
// (e2fsprogs lib/ext2fs/crc16.h): polynomial 0x8005, reflected.
func crc16(sum uint16, b []byte) uint16 {
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0xa001
			} else {
				sum >>= 1
			}
		}
	}
	return sum
}
