package ext4

import (
	"encoding/binary"
	"math/bits"
	"sort"
)

// groupZeroed is EXT4_BG_INODE_ZEROED: the kernel has no inode table to clear.
// The flags that say that a bitmap isn't valid yet are never set.
const groupZeroed = 0x4

// setBits sets the bits from first to end, end excluded.
func setBits(b []byte, first, end uint64) {
	for first < end && first%8 != 0 {
		b[first/8] |= 1 << (first % 8)
		first++
	}
	for ; first+8 <= end; first += 8 {
		b[first/8] = 0xff
	}
	for ; first < end; first++ {
		b[first/8] |= 1 << (first % 8)
	}
}

// putBlockBitmap makes a group's block bitmap in b, which is zero.
func (pl *placed) putBlockBitmap(b []byte, group uint32) {
	start := uint64(group) * blocksPerGroup
	blocks := pl.groupBlocks(group)
	setBits(b, 0, uint64(pl.fixedBlocks(group)))
	setBits(b, blocks, blocksPerGroup) // what isn't there is in use
	first := sort.Search(len(pl.free), func(i int) bool {
		return pl.free[i].block+pl.free[i].count > start
	})
	for _, s := range pl.free[first:] {
		if s.block >= start+blocks || s.place >= pl.used {
			break
		}
		end := s.block + min(s.count, pl.used-s.place)
		setBits(b, max(s.block, start)-start, max(min(end, start+blocks), start)-start)
	}
}

// isEmpty tells whether no block of a group is in use.
func (pl *placed) isEmpty(group uint32) bool {
	if pl.fixedBlocks(group) > 0 || pl.groupBlocks(group) < blocksPerGroup {
		return false
	}
	start := uint64(group) * blocksPerGroup
	i := sort.Search(len(pl.free), func(i int) bool { return pl.free[i].block > start }) - 1
	return pl.free[i].place+start-pl.free[i].block >= pl.used
}

// groupInodes counts the inodes of a group that are in use.
func (pl *placed) groupInodes(group uint32) uint32 {
	before := uint64(group) * pl.perGroup()
	if uint64(pl.inodesUsed) <= before {
		return 0
	}
	return uint32(min(uint64(pl.inodesUsed)-before, pl.perGroup()))
}

// putInodeBitmap makes a group's inode bitmap in b, which is zero.
func (pl *placed) putInodeBitmap(b []byte, group uint32) {
	setBits(b, 0, uint64(pl.groupInodes(group)))
	setBits(b, pl.perGroup(), 8*blockSize) // what isn't there is in use
}

// groupCounts are the totals that the superblock has.
type groupCounts struct{ freeBlocks, freeInodes uint64 }

// descriptors makes the table of group descriptors.
func (pl *placed) descriptors(dirs []uint32, seed checksum) ([]byte, groupCounts) {
	table := make([]byte, pl.descBlocks*blockSize)
	var sum groupCounts
	var block, inode [blockSize]byte
	for g := range pl.groups {
		clear(block[:])
		clear(inode[:])
		pl.putBlockBitmap(block[:], g)
		pl.putInodeBitmap(inode[:], g)
		d := descriptor{
			blockBitmap: pl.blockBitmap(g), inodeBitmap: pl.inodeBitmap(g), inodeTable: pl.inodeTable(g),
			freeBlocks: blocksPerGroup - countBits(block[:]), freeInodes: pl.inodesPerGroup - pl.groupInodes(g),
			dirs:     dirs[g],
			blockSum: seed.add(block[:]), inodeSum: seed.add(inode[:pl.inodesPerGroup/8]),
		}
		d.put(table[g*descSize:(g+1)*descSize], g, seed)
		sum.freeBlocks += uint64(d.freeBlocks)
		sum.freeInodes += uint64(d.freeInodes)
	}
	return table, sum
}

func countBits(b []byte) uint32 {
	n := 0
	for ; len(b) > 0; b = b[8:] {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(b))
	}
	return uint32(n)
}

// descriptor is a group descriptor (struct ext4_group_desc).
type descriptor struct {
	blockBitmap, inodeBitmap, inodeTable uint64
	freeBlocks, freeInodes, dirs         uint32
	blockSum, inodeSum                   checksum
}

func (d *descriptor) put(b []byte, group uint32, seed checksum) {
	split32 := func(low, high int, v uint64) {
		binary.LittleEndian.PutUint32(b[low:], uint32(v))
		binary.LittleEndian.PutUint32(b[high:], uint32(v>>32))
	}
	split16 := func(low, high int, v uint32) {
		binary.LittleEndian.PutUint16(b[low:], uint16(v))
		binary.LittleEndian.PutUint16(b[high:], uint16(v>>16))
	}
	split32(0x00, 0x20, d.blockBitmap)
	split32(0x04, 0x24, d.inodeBitmap)
	split32(0x08, 0x28, d.inodeTable)
	split16(0x0c, 0x2c, d.freeBlocks)
	split16(0x0e, 0x2e, d.freeInodes)
	split16(0x10, 0x30, d.dirs)
	binary.LittleEndian.PutUint16(b[0x12:], groupZeroed)
	split16(0x18, 0x38, uint32(d.blockSum))
	split16(0x1a, 0x3a, uint32(d.inodeSum))
	split16(0x1c, 0x32, d.freeInodes) // never used, as inodes are taken in order
	sum := seed.addUint32(group).add(b[:descSize])
	binary.LittleEndian.PutUint16(b[0x1e:], uint16(sum))
}
