package ext4

import (
	"fmt"
	"sort"
)

// layout is the geometry of a filesystem: where metadata that has a fixed
// place is, and what is left. It follows mke2fs, so that the tools find what
// they are used to.
type layout struct {
	blocks         uint64
	groups         uint32
	descBlocks     uint32 // of group descriptors
	reservedDescs  uint32 // blocks that they can grow into (resize_inode)
	flexShift      uint32 // log2 of the groups whose metadata is packed
	inodesPerGroup uint32
	tableBlocks    uint32 // of a group's inode table
	journalBlocks  uint32

	// free is what metadata leaves, in order. A place in the free space is an
	// index that counts its blocks alone, so that what is allocated one after
	// the other has consecutive places whatever lies between.
	free      []span
	freeTotal uint64
}

// span is a range of blocks, and its place in the free space.
type span struct{ block, count, place uint64 }

// minGroupSpace is what a last group has to offer besides metadata (as
// ext2fs_initialize).
const minGroupSpace = 50

// newLayout computes the geometry of a filesystem of at most blocks blocks
// with at least inodes inodes (or as many as fit, see inodeCount).
func newLayout(blocks uint64, inodes uint64, journal bool) (*layout, error) {
	asked := blocks
	for {
		l := &layout{blocks: blocks, groups: uint32((blocks + blocksPerGroup - 1) / blocksPerGroup)}
		if l.groups == 0 {
			return nil, fmt.Errorf("an image of %d blocks of %d bytes is too small", asked, blockSize)
		}
		l.setDescriptors()
		l.setInodes(max(inodes, defaultInodes(blocks)))
		l.setFlex()
		last := l.groups - 1
		if l.groupBlocks(last) >= uint64(l.fixedBlocks(last))+minGroupSpace {
			if journal {
				l.journalBlocks = journalSize(blocks)
			}
			l.setFree()
			return l, nil
		}
		blocks = uint64(last) * blocksPerGroup // without the last group
	}
}

// setDescriptors leaves space for the descriptors of a filesystem 1024 times
// as large, as far as one block of the resize inode reaches.
func (l *layout) setDescriptors() {
	l.descBlocks = (l.groups + descsPerBlock - 1) / descsPerBlock
	most := min(l.blocks*1024, maxBlocks)
	groups := (most + blocksPerGroup - 1) / blocksPerGroup
	blocks := (groups + descsPerBlock - 1) / descsPerBlock
	l.reservedDescs = uint32(min(blocks-uint64(l.descBlocks), pointersPerBlock))
}

// defaultInodes is how many inodes mke2fs makes: one for so many bytes,
// depending on the size (mke2fs.conf).
func defaultInodes(blocks uint64) uint64 {
	bytes := blocks * blockSize
	switch {
	case bytes < 3<<20: // floppy
		return bytes / 8192
	case bytes < 512<<20: // small
		return bytes / 4096
	case bytes < 4<<40:
		return bytes / 16384
	default: // big
		return bytes / 32768
	}
}

func (l *layout) setInodes(inodes uint64) {
	perGroup := (inodes + uint64(l.groups) - 1) / uint64(l.groups)
	perGroup = (perGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
	l.inodesPerGroup = uint32(min(perGroup, 8*blockSize))
	l.tableBlocks = l.inodesPerGroup / inodesPerBlock
}

// inodeCount is how many inodes there are.
func (l *layout) inodeCount() uint64 { return uint64(l.groups) * uint64(l.inodesPerGroup) }

// setFlex packs the metadata of 16 groups, or of as many as have it all in the
// first of them.
func (l *layout) setFlex() {
	for l.flexShift = 4; l.flexShift > 0; l.flexShift-- {
		n := uint32(1) << l.flexShift
		if 1+l.descBlocks+l.reservedDescs+n*(2+l.tableBlocks)+minGroupSpace <= blocksPerGroup {
			return
		}
	}
}

// minJournal is how many blocks the kernel wants of a journal
// (JBD2_MIN_JOURNAL_BLOCKS).
const minJournal = 1024

// journalSize is how many blocks mke2fs gives the journal
// (ext2fs_default_journal_size).
func journalSize(blocks uint64) uint32 {
	switch {
	case blocks < 2048:
		return 0
	case blocks < 32768:
		return minJournal
	case blocks < 256*1024:
		return 4096
	case blocks < 512*1024:
		return 8192
	case blocks < 4096*1024:
		return 16384
	case blocks < 8192*1024:
		return 32768
	case blocks < 16384*1024:
		return 65536
	case blocks < 32768*1024:
		return 131072
	default:
		return 262144
	}
}

// hasSuper tells whether a group begins with a copy of the superblock and the
// descriptors (sparse_super): 0, 1 and the powers of 3, 5 and 7.
func hasSuper(group uint32) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < uint64(group) {
			n *= base
		}
		if n == uint64(group) {
			return true
		}
	}
	return false
}

// groupBlocks is how many blocks a group has; only the last may have fewer.
func (l *layout) groupBlocks(group uint32) uint64 {
	return min(blocksPerGroup, l.blocks-uint64(group)*blocksPerGroup)
}

// superBlocks is how many blocks the copies at a group's start take.
func (l *layout) superBlocks(group uint32) uint32 {
	if !hasSuper(group) {
		return 0
	}
	return 1 + l.descBlocks + l.reservedDescs
}

// flexFirst is the group that holds the metadata of a group.
func (l *layout) flexFirst(group uint32) uint32 { return group >> l.flexShift << l.flexShift }

// flexCount is how many groups have their metadata where this one has.
func (l *layout) flexCount(group uint32) uint32 {
	return min(1<<l.flexShift, l.groups-l.flexFirst(group))
}

// fixedBlocks is how many blocks of metadata lie at a group's start.
func (l *layout) fixedBlocks(group uint32) uint32 {
	n := l.superBlocks(group)
	if l.flexFirst(group) == group {
		n += l.flexCount(group) * (2 + l.tableBlocks)
	}
	return n
}

// flexStart is the first block of the packed metadata: the block bitmaps of
// all the groups, then their inode bitmaps, then their inode tables.
func (l *layout) flexStart(group uint32) uint64 {
	first := l.flexFirst(group)
	return uint64(first)*blocksPerGroup + uint64(l.superBlocks(first))
}

func (l *layout) blockBitmap(group uint32) uint64 {
	return l.flexStart(group) + uint64(group-l.flexFirst(group))
}

func (l *layout) inodeBitmap(group uint32) uint64 {
	return l.blockBitmap(group) + uint64(l.flexCount(group))
}

func (l *layout) inodeTable(group uint32) uint64 {
	n := uint64(group - l.flexFirst(group))
	return l.flexStart(group) + 2*uint64(l.flexCount(group)) + n*uint64(l.tableBlocks)
}

func (l *layout) setFree() {
	at := uint64(0) // first block that isn't in a span yet
	add := func(end uint64) {
		if end > at {
			l.free = append(l.free, span{at, end - at, l.freeTotal})
			l.freeTotal += end - at
		}
	}
	for g := range l.groups {
		if n := l.fixedBlocks(g); n > 0 {
			start := uint64(g) * blocksPerGroup
			add(start)
			at = start + uint64(n)
		}
	}
	add(l.blocks)
}

// at returns the block at a place in the free space, and how many blocks
// follow it without a gap, itself included. Beyond the end there is no end,
// so that what doesn't fit can be measured.
func (l *layout) at(place uint64) (block, count uint64) {
	if place >= l.freeTotal {
		return l.blocks + place - l.freeTotal, 1 << 62
	}
	i := sort.Search(len(l.free), func(i int) bool { return l.free[i].place > place }) - 1
	s := l.free[i]
	skip := place - s.place
	return s.block + skip, s.count - skip
}
