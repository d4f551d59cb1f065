package ext4

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

const (
	// sizeUnit is what sizes that aren't asked for are a multiple of: 1 MiB.
	sizeUnit = 1 << 20 / blockSize

	minAutoBlocks = 16 << 20 / blockSize
)

// placed is a layout where everything has its place.
type placed struct {
	*layout
	used       uint64 // blocks of the free space, from its start
	inodesUsed uint32 // in use, from number 1
	resizeAt   uint64 // block of pointers that the resize inode has
	size       int64  // of the image, in bytes
}

// place chooses the size and allocates all blocks.
func (p *Planner) place() (*placed, error) {
	if p.opts.Size == 0 {
		return p.placeAuto(uint64(p.opts.Free+blockSize-1) / blockSize)
	}
	blocks := uint64(p.opts.Size) / blockSize
	pl, missing, err := p.placeIn(blocks)
	if err == nil && missing == 0 {
		pl.size = p.opts.Size
		return pl, nil
	}
	for blocks = inUnits(max(blocks, 1)); blocks <= maxBlocks; blocks += inUnits(max(missing, 1)) {
		// A size that is too small for anything is no error here.
		if pl, missing, err = p.placeIn(blocks); err == nil && missing == 0 {
			return nil, &plan.SizeError{Size: p.opts.Size, Need: int64(pl.blocks) * blockSize}
		}
	}
	return nil, errTooMuch
}

var errTooMuch = fmt.Errorf("the content needs more than the %d bytes that an image can have", int64(maxBlocks)*blockSize)

// placeIn places everything in an image of some blocks, if need be with a
// smaller journal than is usual, and returns how many blocks that lacks.
func (p *Planner) placeIn(blocks uint64) (pl *placed, missing uint64, err error) {
	l, err := newLayout(blocks, p.wantedInodes(), !p.opts.NoJournal)
	if err != nil {
		return nil, 0, err
	}
	for {
		pl = p.allocate(l)
		// The usual journal grows by steps, of which a smaller image has none.
		if missing = pl.missing(0); missing == 0 || l.journalBlocks <= minJournal {
			return pl, missing, nil
		}
		l.journalBlocks /= 2
	}
}

// inUnits rounds a number of blocks up to whole units.
func inUnits(blocks uint64) uint64 { return (blocks + sizeUnit - 1) / sizeUnit * sizeUnit }

// placeAuto finds a size that holds everything and leaves some blocks free.
func (p *Planner) placeAuto(free uint64) (*placed, error) {
	for total := minAutoBlocks + free; total <= maxBlocks; {
		l, err := newLayout(total, p.wantedInodes(), !p.opts.NoJournal)
		if err != nil {
			return nil, err
		}
		pl := p.allocate(l)
		missing := pl.missing(free)
		if missing == 0 {
			pl.size = int64(l.blocks) * blockSize
			return pl, nil
		}
		total += inUnits(missing)
	}
	return nil, errTooMuch
}

// wantedInodes leaves some inodes for new files, however many there are.
func (p *Planner) wantedInodes() uint64 {
	n := uint64(p.inodes.count)
	return n + n/8 + inodesPerBlock
}

// missing returns how many blocks the filesystem is too small by, for free
// free ones; 0 if it is large enough.
func (pl *placed) missing(free uint64) uint64 {
	var n uint64
	if need := pl.used + free; need > pl.freeTotal {
		n = need - pl.freeTotal
	}
	if have := pl.inodeCount(); have < uint64(pl.inodesUsed) {
		groups := (uint64(pl.inodesUsed) - have + pl.perGroup() - 1) / pl.perGroup()
		n = max(n, groups*blocksPerGroup)
	}
	return n
}

func (l *layout) perGroup() uint64 { return uint64(l.inodesPerGroup) }

// allocate gives everything its place in the free space, one after the other:
// first what is read to list and look up, then the files, then what only the
// kernel reads.
func (p *Planner) allocate(l *layout) *placed {
	pl := &placed{layout: l, inodesUsed: p.inodes.count}
	p.prepareJournal(l)
	for n := uint32(rootInode); n <= p.inodes.count; n++ {
		node := p.inodes.get(n)
		if node.hasXattrBlock() {
			node.xattrBlock = uint32(pl.take(1))
		}
		if node.kind() != unix.S_IFREG {
			pl.allocateData(node)
		}
	}
	for n := uint32(firstFreeInode); n <= p.inodes.count; n++ {
		if node := p.inodes.get(n); node.kind() == unix.S_IFREG {
			pl.allocateData(node)
		}
	}
	if l.journalBlocks > 0 {
		pl.allocateData(p.inodes.get(journalInode))
	}
	if l.reservedDescs > 0 {
		pl.resizeAt, _ = l.at(pl.take(1))
	}
	return pl
}

// take allocates n blocks and returns the place of the first.
func (pl *placed) take(n uint64) uint64 {
	place := pl.used
	pl.used += n
	return place
}

// allocateData allocates an inode's blocks, and those that its extents need.
func (pl *placed) allocateData(node *inode) {
	blocks := node.dataBlocks()
	if blocks == 0 {
		return
	}
	node.start = uint32(pl.take(blocks))
	tree := treeBlocks(pl.countExtents(node))
	if tree > 0 || node.extra != nil {
		node.more().treeBlocks = tree
	}
	pl.take(uint64(tree))
}
