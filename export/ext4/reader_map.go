package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// mapping is a run of an inode's blocks: where in the file, where on the disk.
type mapping struct {
	logical, physical, count uint64
	unwritten                bool // allocated, and zeros until it is written
}

const maxTreeDepth = 5 // EXT4_MAX_EXTENT_DEPTH

// mapper visits an inode's block map of either kind, in the file's order.
type mapper struct {
	r    *Reader
	n    *node
	data func(mapping) error // for each run
	meta func(uint64) error  // for each block of the map itself; may be nil
	next uint64              // logical block that the next run may begin at
	left uint64              // blocks that may still be mapped: each exists once
}

// mapped calls data for each run of an inode's blocks and meta, unless nil,
// for each block that its map is made of. A map that isn't in order or has
// more blocks than the filesystem is an error, so no map is endless.
func (r *Reader) mapped(n *node, data func(mapping) error, meta func(uint64) error) error {
	m := &mapper{r: r, n: n, data: data, meta: meta, left: r.super.blocks}
	if n.flags()&flagExtents != 0 {
		return m.extentNode(n.pointers(), -1, 1<<32)
	}
	p := n.pointers()
	if err := m.pointers(p[:48], 0); err != nil {
		return err
	}
	for depth := 1; depth <= 3; depth++ {
		at := 44 + 4*depth
		if err := m.pointers(p[at:at+4], depth); err != nil {
			return err
		}
	}
	return nil
}

// run gives one run on, after checking it.
func (m *mapper) run(x mapping) error {
	if x.logical < m.next {
		return fmt.Errorf("the map of its blocks is out of order at block %d", x.logical)
	}
	if err := m.r.inRange(x.physical, x.count); err != nil {
		return err
	}
	if x.count > m.left {
		return errors.New("it maps more blocks than the filesystem has")
	}
	m.left -= x.count
	m.next = x.logical + x.count
	return m.data(x)
}

// mapBlock reads a block of the map.
func (m *mapper) mapBlock(number uint64) ([]byte, error) {
	if m.left == 0 {
		return nil, errors.New("it maps more blocks than the filesystem has")
	}
	m.left--
	if m.meta != nil {
		if err := m.meta(number); err != nil {
			return nil, err
		}
	}
	return m.r.block(number)
}

// extentNode visits a node of an extent tree: b is what holds it, depth what
// its parent expects, -1 for the root. Logical blocks lie below end.
func (m *mapper) extentNode(b []byte, depth int, end uint64) error {
	le := binary.LittleEndian
	entries, most, level := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	switch {
	case le.Uint16(b) != extentMagic:
		return errors.New("a node of the extent tree has no magic number")
	case entries > most || (most+1)*extentEntrySize > len(b):
		return fmt.Errorf("a node of the extent tree has %d of %d entries", entries, most)
	case level > maxTreeDepth || depth >= 0 && level != depth:
		return fmt.Errorf("a node of the extent tree has depth %d", level)
	}
	if depth >= 0 && m.r.super.metadataSums() {
		at := (most + 1) * extentEntrySize
		if at+4 > len(b) || uint32(m.n.seed.add(b[:at])) != le.Uint32(b[at:]) {
			return fmt.Errorf("a node of the extent tree: %w", errSum)
		}
	}
	for i := range entries {
		e := b[(i+1)*extentEntrySize:][:extentEntrySize]
		limit := end
		if i+1 < entries {
			limit = min(limit, uint64(le.Uint32(b[(i+2)*extentEntrySize:])))
		}
		if err := m.extentEntry(e, level, limit); err != nil {
			return err
		}
	}
	return nil
}

// extentEntry visits an entry, whose logical blocks lie below end.
func (m *mapper) extentEntry(e []byte, level int, end uint64) error {
	le := binary.LittleEndian
	logical := uint64(le.Uint32(e))
	if level > 0 {
		child := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
		if logical < m.next || logical >= end {
			return fmt.Errorf("the extent tree is out of order at block %d", logical)
		}
		b, err := m.mapBlock(child)
		if err != nil {
			return err
		}
		m.next = logical
		return m.extentNode(b, level-1, end)
	}
	x := mapping{
		logical: logical, count: uint64(le.Uint16(e[4:])),
		physical: uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32,
	}
	if x.count > maxExtent {
		x.count, x.unwritten = x.count-maxExtent, true
	}
	if x.count == 0 || logical+x.count > end {
		return fmt.Errorf("an extent of %d blocks at block %d", x.count, logical)
	}
	return m.run(x)
}

// pointers visits the pointers of ext2's block map in b, which lead to data
// through depth further blocks.
func (m *mapper) pointers(b []byte, depth int) error {
	le := binary.LittleEndian
	perBlock := m.r.super.blockSize / 4
	span := uint64(1) // blocks below one pointer
	for range depth {
		span *= perBlock
	}
	start := m.next
	for i := 0; i < len(b); i += 4 {
		at := start + uint64(i/4)*span
		physical := uint64(le.Uint32(b[i:]))
		m.next = at
		if physical == 0 {
			continue // a hole
		}
		if depth == 0 {
			n := contiguous(b[i:])
			if err := m.run(mapping{logical: at, physical: physical, count: n}); err != nil {
				return err
			}
			i += 4 * int(n-1)
			continue
		}
		child, err := m.mapBlock(physical)
		if err != nil {
			return err
		}
		if err := m.pointers(child, depth-1); err != nil {
			return err
		}
	}
	m.next = start + uint64(len(b)/4)*span
	return nil
}

// contiguous counts the pointers at the start of b that follow each other.
func contiguous(b []byte) uint64 {
	first := binary.LittleEndian.Uint32(b)
	n := uint32(1)
	for int(n+1)*4 <= len(b) && binary.LittleEndian.Uint32(b[n*4:]) == first+n {
		n++
	}
	return uint64(n)
}
