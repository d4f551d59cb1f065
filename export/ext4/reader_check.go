package ext4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// checker looks for what e2fsck would complain about.
type checker struct {
	r      *Reader
	ctx    context.Context
	report func(problem string) error

	used    usedBlocks
	inodes  map[uint32]*inodeCheck // those in use
	xattrs  map[uint64]uint32      // blocks of attributes: how many inodes refer to them
	journal uint32
}

// inodeCheck is what is known of an inode in use.
type inodeCheck struct {
	links, found uint32 // as it says, as directories say
	kind         uint32
	reached      bool // a directory that was read
}

// Check reports everything in the filesystem that contradicts itself: the
// superblock, its copies and the group descriptors, checksums, blocks that are
// out of range or in use twice, directories, link counts, and bitmaps and
// counts of what is free. Each problem is one line. The order of names in
// hashed directories isn't looked at, nor is the journal's content. It returns
// an error of ctx or report; and one if the filesystem has features that it
// can't check.
func (r *Reader) Check(ctx context.Context, report func(problem string) error) error {
	if r.super.bigalloc() {
		return errors.New("ext4: can't check filesystems with the feature bigalloc")
	}
	c := &checker{
		r: r, ctx: ctx, report: report,
		used:   usedBlocks{super: &r.super, groups: make(map[uint32][]byte)},
		inodes: make(map[uint32]*inodeCheck), xattrs: make(map[uint64]uint32),
	}
	for _, pass := range []func() error{
		c.checkSuper, c.checkGroups, c.checkMMP, c.checkInodes, c.checkXattrRefs, c.checkTree, c.checkLinks, c.checkBitmaps,
	} {
		if err := pass(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) problem(format string, args ...any) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	return c.report(fmt.Sprintf(format, args...))
}

func (c *checker) checkSuper() error {
	le := binary.LittleEndian
	s := &c.r.super
	var errs []error
	if state := le.Uint16(s.raw[0x3a:]); state&1 == 0 {
		errs = append(errs, c.problem("superblock: the filesystem was not unmounted cleanly"))
	} else if state&2 != 0 {
		errs = append(errs, c.problem("superblock: the kernel has found errors"))
	}
	if s.incompat&incompatRecover != 0 {
		errs = append(errs, c.problem("superblock: the journal must be replayed"))
	}
	if orphan := le.Uint32(s.raw[0xe8:]); orphan != 0 {
		errs = append(errs, c.problem("superblock: inode %d is on the list of orphans", orphan))
	}
	if uint64(s.inodes) != uint64(s.groups())*uint64(s.inodesPerGroup) {
		errs = append(errs, c.problem("superblock: %d inodes are not %d for each of %d groups", s.inodes, s.inodesPerGroup, s.groups()))
	}
	return errors.Join(errs...)
}

// checkGroups checks descriptors and copies, and takes down what the groups'
// own metadata uses.
func (c *checker) checkGroups() error {
	r, s := c.r, &c.r.super
	reserved := uint64(binary.LittleEndian.Uint16(s.raw[0xce:]))
	for number := range s.groups() {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		start := s.groupStart(number)
		if s.hasBackup(number) {
			blocks := 1 + uint64(s.descBlocks()) + reserved
			if s.incompat&incompatMetaBG != 0 {
				blocks = 1 + min(uint64(s.descBlocks()), uint64(s.firstMetaBG)) + reserved
			}
			c.used.add(start, min(blocks, s.groupLen(number)))
			if err := c.checkCopy(number); err != nil {
				return err
			}
		}
		if err := c.markMetaGroup(number); err != nil {
			return err
		}
		d, err := r.group(number)
		if err != nil {
			if err := c.problem("%v", err); err != nil {
				return err
			}
			continue
		}
		if !d.sumOK {
			if err := c.problem("group %d: descriptor: %v", number, errSum); err != nil {
				return err
			}
		}
		if n := c.used.add(d.blockBitmap, 1) + c.used.add(d.inodeBitmap, 1) + c.used.add(d.inodeTable, r.tableBlocks()); n > 0 {
			if err := c.problem("group %d: %d of its blocks of metadata are in use by others", number, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// markMetaGroup takes down the descriptors that a group of a metagroup holds:
// the first, the second and the last have a copy.
func (c *checker) markMetaGroup(number uint32) error {
	s := &c.r.super
	if in := number % s.descsInBlock(); s.inMetaGroup(number/s.descsInBlock()) && (in == 0 || in == 1 || in == s.descsInBlock()-1) {
		at := s.groupStart(number)
		if s.hasBackup(number) {
			at++
		}
		if err := c.r.inRange(at, 1); err != nil {
			return c.problem("group %d: its descriptors: %v", number, err)
		}
		c.used.add(at, 1)
	}
	return nil
}

// checkMMP takes down the block by which hosts see that another has the
// filesystem mounted (multiple mount protection).
func (c *checker) checkMMP() error {
	s := &c.r.super
	if s.incompat&incompatMMP == 0 {
		return nil
	}
	block := binary.LittleEndian.Uint64(s.raw[0x168:])
	if err := c.r.inRange(block, 1); err != nil {
		return c.problem("superblock: block of mmp: %v", err)
	}
	if c.used.add(block, 1) > 0 {
		return c.problem("superblock: block of mmp: block %d is in use twice", block)
	}
	return nil
}

// checkCopy compares a group's copy of the superblock and of the descriptors
// with the primary.
func (c *checker) checkCopy(number uint32) error {
	r, s := c.r, &c.r.super
	if number == 0 {
		return nil
	}
	b, err := r.block(s.groupStart(number))
	if err != nil {
		return c.problem("group %d: copy of the superblock: %v", number, err)
	}
	for _, f := range [][2]int{ // what never changes
		{0x00, 0x0c}, {0x14, 0x2c}, {0x38, 0x3a}, {0x4c, 0x50}, {0x54, 0x5a}, {0x68, 0x78}, {0xfe, 0x100},
	} {
		if string(b[f[0]:f[1]]) != string(s.raw[f[0]:f[1]]) {
			return c.problem("group %d: the copy of the superblock differs at byte %#x", number, f[0])
		}
	}
	if s.metadataSums() && uint32(newChecksum.add(b[:superSize-4])) != binary.LittleEndian.Uint32(b[superSize-4:]) {
		return c.problem("group %d: copy of the superblock: %v", number, errSum)
	}
	for index := range s.descBlocks() {
		if s.inMetaGroup(index) {
			break
		}
		b, err := r.block(s.descBlock(index, number))
		if err != nil {
			return c.problem("group %d: copy of the descriptors: %v", number, err)
		}
		for i := range s.descsInBlock() {
			group := index*s.descsInBlock() + i
			primary, err := r.group(group)
			if err != nil {
				continue // told elsewhere, or beyond the last
			}
			d := r.parseGroup(b[int(i)*s.descSize:][:s.descSize], group)
			if d.blockBitmap != primary.blockBitmap || d.inodeBitmap != primary.inodeBitmap || d.inodeTable != primary.inodeTable {
				return c.problem("group %d: its copy of the descriptor of group %d differs", number, group)
			}
		}
	}
	return nil
}

// checkXattrRefs compares how many inodes share a block of attributes with
// what the block says.
func (c *checker) checkXattrRefs() error {
	for _, block := range slices.Sorted(maps.Keys(c.xattrs)) {
		b, err := c.r.block(block)
		if err != nil {
			continue // told with the inode
		}
		if refs := binary.LittleEndian.Uint32(b[4:]); refs != c.xattrs[block] {
			if err := c.problem("extended attributes in block %d: %d inodes refer to them, not %d", block, c.xattrs[block], refs); err != nil {
				return err
			}
		}
	}
	return nil
}

// usedBlocks are the blocks that something was found in: a bitmap for each
// group that has any, so that a large and empty filesystem costs nothing.
type usedBlocks struct {
	super  *super
	groups map[uint32][]byte
}

// add takes blocks down and returns how many were taken before. Those beyond
// the filesystem's end are left out.
func (u *usedBlocks) add(first, count uint64) (twice uint64) {
	for count > 0 && first < u.super.blocks {
		group := uint32((first - uint64(u.super.firstBlock)) / uint64(u.super.blocksPerGroup))
		at := first - u.super.groupStart(group)
		n := min(count, u.super.groupLen(group)-at)
		bits := u.groups[group]
		if bits == nil {
			bits = make([]byte, u.super.blockSize)
			u.groups[group] = bits
		}
		for b := at; b < at+n; b++ {
			if bits[b/8]&(1<<(b%8)) != 0 {
				twice++
			}
		}
		setBits(bits, at, at+n)
		first, count = first+n, count-n
	}
	return twice
}
