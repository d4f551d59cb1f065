package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	badBlocksInode = 1
	inodeDtime     = 0x14
	flagVerity     = 0x100000 // a file that has its Merkle tree beyond its end
	inodeScanBytes = 1 << 20  // of a table that are read at once
)

// checkInodes reads all inode tables.
func (c *checker) checkInodes() error {
	s := &c.r.super
	c.journal = binary.LittleEndian.Uint32(s.raw[0xe0:])
	for number := range s.groups() {
		g, err := c.r.group(number)
		if err != nil {
			continue // told before
		}
		count := s.inodesPerGroup - min(g.unused, s.inodesPerGroup)
		if g.flags&groupInodesUninit != 0 {
			count = 0
		}
		if err := c.checkTable(g, count); err != nil {
			return err
		}
	}
	return nil
}

// checkTable reads the first inodes of a group's table.
func (c *checker) checkTable(g groupDesc, count uint32) error {
	s := &c.r.super
	size := uint32(s.inodeSize)
	step := uint32(inodeScanBytes) / size
	for first := uint32(0); first < count; first += step {
		b := make([]byte, min(step, count-first)*size)
		at := int64(g.inodeTable*s.blockSize) + int64(first*size)
		if err := readFull(c.r.src, b, at); err != nil {
			return c.problem("group %d: inode table: %v", g.number, err)
		}
		for i := uint32(0); i*size < uint32(len(b)); i++ {
			n := &node{
				number: g.number*s.inodesPerGroup + first + i + 1,
				at:     at + int64(i*size), raw: b[i*size:][:size],
			}
			if n.number > s.inodes {
				break
			}
			if err := c.checkInode(n); err != nil {
				return err
			}
		}
	}
	return c.ctx.Err()
}

func (c *checker) checkInode(n *node) error {
	s := &c.r.super
	special := n.number < s.firstInode && n.number != rootInode
	if n.links() == 0 && (!special || n.sectors(c.r) == 0) {
		return nil
	}
	name := fmt.Sprintf("inode %d", n.number)
	if err := c.r.verifyNode(n); err != nil {
		if err := c.problem("%s: %v", name, err); err != nil {
			return err
		}
		if !errors.Is(err, errSum) {
			return nil
		}
	}
	if !special {
		c.inodes[n.number] = &inodeCheck{links: n.links(), kind: n.kind()}
	}
	switch n.kind() {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		if !special {
			return c.problem("%s: mode %#o has no type", name, n.mode())
		}
	}
	if n.links() > 0 && n.u32(inodeDtime) != 0 {
		if err := c.problem("%s: it is in use, but has a time of deletion", name); err != nil {
			return err
		}
	}
	if err := c.checkXattrs(n); err != nil {
		return err
	}
	if n.kind() == unix.S_IFLNK {
		if _, err := c.r.target(n); err != nil {
			if err := c.problem("%s: %v", name, err); err != nil {
				return err
			}
		}
	}
	return c.checkInodeBlocks(n, special)
}

// checkXattrs reads an inode's attributes.
func (c *checker) checkXattrs(n *node) error {
	block := n.xattrBlock()
	if n.number < c.r.super.firstInode && n.number != rootInode {
		block = 0
	}
	if block != 0 && c.r.inRange(block, 1) == nil {
		if c.xattrs[block]++; c.xattrs[block] == 1 && c.used.add(block, 1) > 0 {
			if err := c.problem("inode %d: block %d of its extended attributes is in use twice", n.number, block); err != nil {
				return err
			}
		}
	}
	if _, err := c.r.xattrs(n); err != nil {
		return c.problem("inode %d: %v", n.number, err)
	}
	return nil
}

// checkInodeBlocks takes down an inode's blocks.
func (c *checker) checkInodeBlocks(n *node, special bool) error {
	r := c.r
	switch {
	case n.flags()&flagInline != 0:
		if err := r.extents(n, func(_, _, _ int64) error { return nil }); err != nil {
			return c.problem("inode %d: %v", n.number, err)
		}
		return c.checkSectors(n, 0)
	case n.isShortLink(r), n.kind() != unix.S_IFREG && n.kind() != unix.S_IFDIR && n.kind() != unix.S_IFLNK && !special:
		return c.checkSectors(n, 0)
	}
	var blocks, twice, first, end uint64
	var data, dataEnd uint64 // those that aren't unwritten
	add := func(at, count uint64) {
		blocks += count
		if t := c.used.add(at, count); t > 0 {
			if twice == 0 {
				first = at
			}
			twice += t
		}
	}
	err := r.mapped(n, func(m mapping) error {
		end = m.logical + m.count
		if !m.unwritten {
			data, dataEnd = data+m.count, end
		}
		add(m.physical, m.count)
		return nil
	}, func(block uint64) error {
		if err := r.inRange(block, 1); err != nil {
			return err
		}
		add(block, 1)
		return nil
	})
	if err != nil {
		return c.problem("inode %d: %v", n.number, err)
	}
	// The blocks of these belong to the groups' metadata, or to nobody.
	lenient := n.number == resizeInode || n.number == badBlocksInode || r.super.roCompat&roCompatSharedBlocks != 0
	if twice > 0 && !lenient {
		if err := c.problem("inode %d: %d of its blocks are in use twice, the first near %d", n.number, twice, first); err != nil {
			return err
		}
	}
	size, beyond := uint64(n.size(r)), uint64(0)
	switch {
	case n.kind() == unix.S_IFDIR && size != end*r.super.blockSize:
		err = c.problem("inode %d: a directory of %d bytes has %d blocks", n.number, size, end)
	case n.kind() == unix.S_IFDIR && data != end:
		err = c.problem("inode %d: of the %d blocks of a directory, only %d are there", n.number, end, data)
	case n.kind() == unix.S_IFREG && !special && n.flags()&flagVerity == 0 && dataEnd > 0:
		beyond = (dataEnd - 1) * r.super.blockSize
	}
	if err == nil && beyond > size {
		err = c.problem("inode %d: it has data at byte %d, beyond its end at %d", n.number, beyond, size)
	}
	if err != nil {
		return err
	}
	return c.checkSectors(n, blocks)
}

// checkSectors compares how much an inode takes with what it says.
func (c *checker) checkSectors(n *node, blocks uint64) error {
	if n.xattrBlock() != 0 {
		blocks++
	}
	want := blocks * (c.r.super.blockSize / 512)
	if got := n.sectors(c.r); got != want && n.number != badBlocksInode && c.r.super.incompat&incompatEAInode == 0 {
		return c.problem("inode %d: it takes %d sectors, not %d", n.number, want, got)
	}
	return nil
}
