package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"
)

// dirTypes are the types of inodes in directories (EXT4_FT_*).
var dirTypes = [...]uint32{
	0, unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFLNK,
}

// dirToRead is a directory that some other one has a name for.
type dirToRead struct{ number, parent uint32 }

// checkTree reads all directories from the root on and counts links. Those
// that wait are at most as many as there are directories.
func (c *checker) checkTree() error {
	root := c.inodes[rootInode]
	if root == nil || root.kind != unix.S_IFDIR {
		return c.problem("inode %d: the root is no directory", rootInode)
	}
	root.reached = true
	for todo := []dirToRead{{rootInode, rootInode}}; len(todo) > 0; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		subdirs, err := c.checkDir(d)
		if err != nil {
			return err
		}
		todo = append(todo, subdirs...)
	}
	return nil
}

// checkDir reads a directory and returns those in it.
func (c *checker) checkDir(d dirToRead) (subdirs []dirToRead, err error) {
	n, err := c.r.node(uint64(d.number))
	if err != nil {
		return nil, nil // told with the inode
	}
	names := make(map[string]struct{})
	count := 0
	var failed error // of report
	tell := func(format string, args ...any) error {
		failed = c.problem("directory inode %d: "+format, append([]any{d.number}, args...)...)
		return failed
	}
	err = c.r.dirents(n, func(e dirent) error {
		count++
		switch {
		case count == 1 && (e.name != "." || e.inode != d.number):
			return tell("the first name is %q with inode %d, not itself", e.name, e.inode)
		case count == 2 && (e.name != ".." || e.inode != d.parent):
			return tell("the second name is %q with inode %d, not its parent %d", e.name, e.inode, d.parent)
		case count <= 2:
			c.link(e.inode)
			if e.typ != 0 && e.typ != fileType(unix.S_IFDIR) {
				return tell("%q has the type %d", e.name, e.typ)
			}
			return nil
		}
		if _, twice := names[e.name]; twice {
			return tell("%q is there twice", e.name)
		}
		names[e.name] = struct{}{}
		child := c.inodes[e.inode]
		if child == nil {
			return tell("%q is inode %d, which is not in use", e.name, e.inode)
		}
		child.found++
		if int(e.typ) >= len(dirTypes) || e.typ != 0 && dirTypes[e.typ] != child.kind {
			return tell("%q has the type %d, but inode %d has mode %#o", e.name, e.typ, e.inode, child.kind)
		}
		if child.kind == unix.S_IFDIR {
			if child.reached {
				return tell("%q is inode %d, a directory with another name", e.name, e.inode)
			}
			child.reached = true
			subdirs = append(subdirs, dirToRead{e.inode, d.number})
		}
		return nil
	})
	if failed != nil {
		return nil, failed
	}
	if err != nil {
		return subdirs, tell("%v", err)
	}
	if count < 2 {
		return subdirs, tell("it has no names of itself and its parent")
	}
	return subdirs, nil
}

func (c *checker) link(inode uint32) {
	if i := c.inodes[inode]; i != nil {
		i.found++
	}
}

// checkLinks compares link counts and finds inodes without a name.
func (c *checker) checkLinks() error {
	for _, number := range slices.Sorted(maps.Keys(c.inodes)) {
		i := c.inodes[number]
		var err error
		switch {
		case i.found == 0 && c.nameless(number):
		case i.found == 0 || i.kind == unix.S_IFDIR && !i.reached:
			err = c.problem("inode %d: it has no name in any directory", number)
		case i.kind == unix.S_IFDIR && i.links == 1 && c.r.super.roCompat&roCompatDirNlink != 0:
			// more than a count holds (dir_nlink)
		case i.links != i.found:
			err = c.problem("inode %d: it has %d links, not %d", number, i.found, i.links)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nameless tells whether an inode is one that no directory names: of the
// filesystem itself, or the value of an attribute.
func (c *checker) nameless(number uint32) bool {
	s, le := &c.r.super, binary.LittleEndian
	if number < s.firstInode || number == c.journal ||
		s.compat&compatOrphanFile != 0 && number == le.Uint32(s.raw[0x280:]) ||
		s.roCompat&roCompatProject != 0 && number == le.Uint32(s.raw[0x26c:]) { // its quotas
		return true
	}
	n, err := c.r.node(uint64(number))
	return err == nil && n.flags()&flagEAInode != 0
}

// checkBitmaps compares the bitmaps and the counts of what is free with what
// was found.
func (c *checker) checkBitmaps() error {
	s := &c.r.super
	var freeBlocks, freeInodes uint64
	for number := range s.groups() {
		g, err := c.r.group(number)
		if err != nil {
			continue // told before
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		used := c.used.groups[number]
		if used == nil {
			used = make([]byte, s.blockSize)
		}
		inodes, dirs := c.inodeBits(number)
		free := uint32(s.groupLen(number)) - popCount(used)
		freeI := s.inodesPerGroup - popCount(inodes)
		freeBlocks, freeInodes = freeBlocks+uint64(free), freeInodes+uint64(freeI)
		setBits(used, s.groupLen(number), 8*s.blockSize)
		setBits(inodes, uint64(s.inodesPerGroup), 8*s.blockSize)
		for _, b := range []struct {
			what          string
			at            uint64
			want          []byte
			uninit        bool
			sum           checksum
			covered, base uint64
		}{
			{"block", g.blockBitmap, used, g.flags&groupBlocksUninit != 0, g.blockSum, uint64(s.blocksPerGroup), s.groupStart(number)},
			{"inode", g.inodeBitmap, inodes, g.flags&groupInodesUninit != 0, g.inodeSum, uint64(s.inodesPerGroup), uint64(number)*uint64(s.inodesPerGroup) + 1},
		} {
			if b.uninit {
				continue // the counts below tell
			}
			if err := c.checkBitmap(number, b.what, b.at, b.want, b.sum, b.covered, b.base); err != nil {
				return err
			}
		}
		if g.freeBlocks != free || g.freeInodes != freeI || g.dirs != dirs {
			err := c.problem("group %d: it has %d free blocks, %d free inodes and %d directories, not %d, %d and %d",
				number, free, freeI, dirs, g.freeBlocks, g.freeInodes, g.dirs)
			if err != nil {
				return err
			}
		}
	}
	le := binary.LittleEndian
	said := uint64(le.Uint32(s.raw[0x0c:]))
	if s.incompat&incompat64bit != 0 {
		said |= uint64(le.Uint32(s.raw[0x158:])) << 32
	}
	if saidI := uint64(le.Uint32(s.raw[0x10:])); said != freeBlocks || saidI != freeInodes {
		return c.problem("superblock: there are %d free blocks and %d free inodes, not %d and %d", freeBlocks, freeInodes, said, saidI)
	}
	return nil
}

// inodeBits makes the inode bitmap that a group should have, and counts its
// directories.
func (c *checker) inodeBits(group uint32) (b []byte, dirs uint32) {
	s := &c.r.super
	b = make([]byte, s.blockSize)
	if group == 0 {
		setBits(b, 0, uint64(min(s.firstInode-1, s.inodesPerGroup)))
	}
	first := group*s.inodesPerGroup + 1
	for i := range s.inodesPerGroup {
		if n := c.inodes[first+i]; n != nil {
			setBits(b, uint64(i), uint64(i)+1)
			if n.kind == unix.S_IFDIR {
				dirs++
			}
		}
	}
	return b, dirs
}

// checkBitmap compares a bitmap with what it should be; base is what its first
// bit stands for.
func (c *checker) checkBitmap(group uint32, what string, at uint64, want []byte, sum checksum, covered, base uint64) error {
	got, err := c.r.block(at)
	if err != nil {
		return c.problem("group %d: %s bitmap: %v", group, what, err)
	}
	if c.r.super.metadataSums() && c.r.super.descSize >= 64 {
		if c.r.seed.add(got[:(covered+7)/8]) != sum {
			if err := c.problem("group %d: %s bitmap: %v", group, what, errSum); err != nil {
				return err
			}
		}
	} else if c.r.super.metadataSums() && uint16(c.r.seed.add(got[:(covered+7)/8])) != uint16(sum) {
		if err := c.problem("group %d: %s bitmap: %v", group, what, errSum); err != nil {
			return err
		}
	}
	if bytes.Equal(got[:covered/8], want[:covered/8]) && covered%8 == 0 {
		return nil
	}
	var free, taken uint64
	first := ""
	for i := range covered {
		g, w := got[i/8]>>(i%8)&1, want[i/8]>>(i%8)&1
		if g == w {
			continue
		}
		if first == "" {
			first = fmt.Sprintf("%s %d", what, base+i)
		}
		if g == 0 {
			free++
		} else {
			taken++
		}
	}
	if free+taken == 0 {
		return nil
	}
	return c.problem("group %d: the %s bitmap says of %d in use that they are free, and of %d free that they are in use; the first is %s",
		group, what, free, taken, first)
}

func popCount(b []byte) (n uint32) {
	for _, c := range b {
		n += uint32(bits.OnesCount8(c))
	}
	return n
}
