package fat32

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

var le = binary.LittleEndian

// sectors makes metadata when it is read: the function fills sector n of a
// range, which it gets zeroed.
type sectors func(n int64, b []byte)

// ReadAt implements [io.ReaderAt].
func (s sectors) ReadAt(p []byte, off int64) (int, error) {
	var b [sectorSize]byte
	for done := 0; done < len(p); {
		n, skip := (off+int64(done))/sectorSize, int((off+int64(done))%sectorSize)
		clear(b[:])
		s(n, b[:])
		done += copy(p[done:], b[skip:])
	}
	return len(p), nil
}

// write makes the plan: what is reserved, the FATs, directories, files.
func (p *Planner) write(l *layout, ends []uint32) (*plan.Plan, error) {
	var b plan.Builder
	used := int64(ends[len(ends)-1]) + 1
	boot := p.bootSectors(l, used)
	b.Put(0, boot)
	b.Put(backupSector*sectorSize, boot)
	for i := range int64(2) {
		b.Generate((l.reserved+i*l.fat)*sectorSize, used*4, sectors(func(n int64, b []byte) { putFAT(b, n, ends) }), 0)
	}
	for _, d := range p.dirs {
		b.Generate(l.offset(d.start), int64(d.slots)*recordSize, sectors(func(n int64, b []byte) { p.putRecords(b, d, n) }), 0)
	}
	for _, d := range p.dirs {
		for i := range d.files {
			f := &d.files[i]
			if f.node.isDir() || f.node.size == 0 {
				continue
			}
			if err := copyFile(&b, l.offset(f.start), f.node); err != nil {
				return nil, fmt.Errorf("%s: %w", f.node, err)
			}
		}
	}
	return b.Build(l.size)
}

// copyFile places a file's data. FAT has no holes, but the image may: they
// read as zeros.
func copyFile(b *plan.Builder, off int64, n *node) error {
	if !n.sparse {
		b.Copy(off, n.size, n, 0)
		return nil
	}
	f, err := n.Open()
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	ranges, err := plan.DataRanges(f, n.size)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		b.Copy(off+r.Off, r.Len, n, r.Off)
	}
	return nil
}

const (
	media      = 0xf8 // a fixed disk
	endOfChain = 0x0fffffff
)

// putFAT makes a sector of a FAT. The chain of a run counts up to its end
// (fatgen103, "FAT Data Structure").
func putFAT(b []byte, sector int64, ends []uint32) {
	first := uint32(sector * sectorSize / 4)
	next, _ := slices.BinarySearch(ends, first)
	for i := range uint32(sectorSize / 4) {
		cluster := first + i
		if next == len(ends) {
			return // free
		}
		value := cluster + 1
		switch cluster {
		case 0:
			value = 0x0fffff00 | media
		case 1:
			value = endOfChain // and no sign of errors or of a crash
		case ends[next]:
			value = endOfChain
			next++
		}
		le.PutUint32(b[4*i:], value)
	}
}
