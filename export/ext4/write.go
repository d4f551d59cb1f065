package ext4

import (
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

// blocks makes metadata when it is read: the function fills block n of a
// range, which it gets zeroed.
type blocks func(n int64, b []byte)

// ReadAt implements [io.ReaderAt].
func (f blocks) ReadAt(p []byte, off int64) (int, error) {
	var whole []byte // for a block of which a part is asked for
	for done := 0; done < len(p); {
		n, skip := (off+int64(done))/blockSize, int((off+int64(done))%blockSize)
		if rest := p[done:]; skip == 0 && len(rest) >= blockSize {
			clear(rest[:blockSize])
			f(n, rest[:blockSize])
			done += blockSize
			continue
		}
		if whole == nil {
			whole = make([]byte, blockSize)
		}
		clear(whole)
		f(n, whole)
		done += copy(p[done:], whole[skip:])
	}
	return len(p), nil
}

// image is one run of [Planner.Plan], when all places are known.
type image struct {
	*Planner
	*placed
	seed    checksum // of all checksums but the superblock's
	builder plan.Builder
}

// write makes the plan.
func (p *Planner) write(pl *placed) (*plan.Plan, error) {
	uuid, _ := p.identifiers()
	im := &image{Planner: p, placed: pl, seed: newChecksum.add(uuid[:])}
	im.builder.Grow(int(p.inodes.count + 3*pl.groups))
	im.addData()
	im.addSupers()
	for g := range pl.groups {
		im.addBitmaps(g)
		im.addInodeTable(g)
	}
	pl.addReserved(&im.builder)
	return im.builder.Build(pl.size)
}

func (im *image) put(block uint64, b []byte) {
	im.builder.Put(int64(block)*blockSize, b)
}

// generate adds count blocks at a block, which make makes, numbered from first.
func (im *image) generate(block, count, first uint64, make blocks) {
	im.builder.Generate(int64(block)*blockSize, int64(count)*blockSize, make, int64(first)*blockSize)
}

// addSupers adds the superblock, the descriptors, and their copies.
func (im *image) addSupers() {
	dirs := make([]uint32, im.groups)
	for _, d := range im.dirs {
		dirs[(d.number-1)/im.inodesPerGroup]++
	}
	table, counts := im.descriptors(dirs, im.seed)
	im.builder.Put(superOffset, im.superblock(im.placed, 0, counts))
	im.put(1, table)
	for _, g := range im.backups() {
		start := uint64(g) * blocksPerGroup
		im.put(start, im.superblock(im.placed, g, counts))
		im.put(start+1, table)
	}
}

// addBitmaps adds a group's bitmaps, where they aren't zero.
func (im *image) addBitmaps(g uint32) {
	if !im.isEmpty(g) {
		im.generate(im.blockBitmap(g), 1, 0, func(_ int64, b []byte) { im.putBlockBitmap(b, g) })
	}
	if im.groupInodes(g) > 0 || im.inodesPerGroup < 8*blockSize {
		im.generate(im.inodeBitmap(g), 1, 0, func(_ int64, b []byte) { im.putInodeBitmap(b, g) })
	}
}

// addInodeTable adds the part of a group's table that is in use. An unused
// inode is all zeros and needs no checksum.
func (im *image) addInodeTable(g uint32) {
	used := im.groupInodes(g)
	if used == 0 {
		return
	}
	first := g*im.inodesPerGroup + 1
	count := (used + inodesPerBlock - 1) / inodesPerBlock
	im.generate(im.inodeTable(g), uint64(count), 0, func(n int64, b []byte) {
		for i := range min(uint32(inodesPerBlock), used-uint32(n)*inodesPerBlock) {
			im.putNumber(b[i*inodeSize:(i+1)*inodeSize], first+uint32(n)*inodesPerBlock+i)
		}
	})
}

// putNumber writes the inode of a number into b, which is zero.
func (im *image) putNumber(b []byte, number uint32) {
	node := im.inodes.get(number)
	switch {
	case number == resizeInode && im.reservedDescs > 0:
		im.putResizeInode(b, im.placed, im.seed)
	case node.mode != 0:
		im.putInode(b, number, node, im.seed)
	}
}

// addData adds what the inodes own.
func (im *image) addData() {
	for n := uint32(1); n <= im.inodes.count; n++ {
		node := im.inodes.get(n)
		if node.hasXattrBlock() {
			block, _ := im.at(uint64(node.xattrBlock))
			im.generate(block, 1, 0, func(_ int64, b []byte) {
				putXattrBlock(b, node.xattrs(), block, im.seed)
			})
		}
		if node.treeBlocks() > 0 {
			im.makeTree(node, im.seed.inode(n), im.put)
		}
		switch {
		case n == journalInode && im.journalBlocks > 0:
			block, _ := im.at(uint64(node.start))
			im.put(block, journalSuper(im.journalBlocks))
		case node.kind() == unix.S_IFREG:
			im.addContent(node)
		case node.kind() == unix.S_IFDIR:
			im.addRecords(node.extra.children)
		case node.kind() == unix.S_IFLNK && !node.isShortLink():
			block, _ := im.at(uint64(node.start))
			im.put(block, []byte(node.extra.target))
		}
	}
}

// addContent adds a file's data.
func (im *image) addContent(node *inode) {
	for e := range im.extents(node) {
		from := int64(e.logical) * blockSize
		length := min(int64(e.count)*blockSize, node.size-from)
		im.builder.Copy(int64(e.block)*blockSize, length, node, from)
	}
}

// addRecords adds a directory's blocks.
func (im *image) addRecords(d *directory) {
	for e := range im.extents(d.node) {
		im.generate(e.block, uint64(e.count), uint64(e.logical), func(n int64, b []byte) {
			d.block(uint32(n), b, im.seed)
		})
	}
}
