package ext4

import (
	"encoding/binary"
	"iter"
)

// Extent trees, as in the kernel's Documentation/filesystems/ext4/ifork.rst.
const (
	extentMagic     = 0xf30a
	extentEntrySize = 12 // of the header and of each entry
	extentsInInode  = blockPointers/extentEntrySize - 1
	extentsInBlock  = (blockSize-4)/extentEntrySize - 1 // a checksum ends the block
	maxExtent       = 32768                             // blocks; more would mean unwritten
)

// extent is a range of a file's blocks that lies together.
type extent struct {
	logical uint32
	count   uint32
	block   uint64
}

// extents lists where an inode's data is.
func (l *layout) extents(node *inode) iter.Seq[extent] {
	return func(yield func(extent) bool) {
		var one [1]run
		place := uint64(node.start)
		for _, r := range node.runs(&one) {
			for r.count > 0 {
				block, together := l.at(place)
				n := uint32(min(uint64(r.count), together, maxExtent))
				if !yield(extent{r.first, n, block}) {
					return
				}
				r.first += n
				r.count -= n
				place += uint64(n)
			}
		}
	}
}

func (l *layout) countExtents(node *inode) uint64 {
	var n uint64
	for range l.extents(node) {
		n++
	}
	return n
}

// treeBlocks is how many blocks a tree of n extents has outside the inode.
func treeBlocks(n uint64) uint32 {
	var blocks uint64
	for n > extentsInInode {
		n = (n + extentsInBlock - 1) / extentsInBlock
		blocks += n
	}
	return uint32(blocks)
}

// treeEntry is an entry of a node: an extent in a leaf, a child above.
type treeEntry struct {
	first uint32 // logical block
	count uint16 // of an extent
	block uint64
}

func (e treeEntry) put(b []byte, depth int) {
	le := binary.LittleEndian
	le.PutUint32(b, e.first)
	if depth == 0 {
		le.PutUint16(b[4:], e.count)
		le.PutUint16(b[6:], uint16(e.block>>32))
		le.PutUint32(b[8:], uint32(e.block))
		return
	}
	le.PutUint32(b[4:], uint32(e.block))
	le.PutUint16(b[8:], uint16(e.block>>32))
}

// putTreeNode writes a node of the tree, whose room is max entries.
func putTreeNode(b []byte, entries []treeEntry, most, depth int) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(len(entries)))
	le.PutUint16(b[4:], uint16(most))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range entries {
		e.put(b[extentEntrySize*(i+1):], depth)
	}
}

// putRoot writes the root of a tree that has no other node.
func (l *layout) putRoot(b []byte, node *inode) {
	var entries [extentsInInode]treeEntry
	n := 0
	for e := range l.extents(node) {
		entries[n] = treeEntry{e.logical, uint16(e.count), e.block}
		n++
	}
	putTreeNode(b, entries[:n], extentsInInode, 0)
}

// makeTree makes the blocks of a tree, level by level from the leaves, and the
// root. The blocks' places follow the data. put is called for each.
func (l *layout) makeTree(node *inode, seed checksum, put func(block uint64, b []byte)) {
	var level []treeEntry
	for e := range l.extents(node) {
		level = append(level, treeEntry{e.logical, uint16(e.count), e.block})
	}
	place := uint64(node.start) + node.dataBlocks()
	depth := 0
	for ; len(level) > extentsInInode; depth++ {
		var above []treeEntry
		for len(level) > 0 {
			n := min(len(level), extentsInBlock)
			b := make([]byte, blockSize)
			putTreeNode(b, level[:n], extentsInBlock, depth)
			tail := extentEntrySize * (1 + extentsInBlock)
			binary.LittleEndian.PutUint32(b[tail:], uint32(seed.add(b[:tail])))
			block, _ := l.at(place)
			put(block, b)
			above = append(above, treeEntry{first: level[0].first, block: block})
			level = level[n:]
			place++
		}
		level = above
	}
	node.extra.root = make([]byte, blockPointers)
	putTreeNode(node.extra.root, level, extentsInInode, depth)
}
