package fat32

import (
	"sort"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Attributes of a record (fatgen103, "FAT Directory Structure").
const (
	attrReadOnly  = 0x01
	attrVolume    = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20 // changed since the last backup, as all new files
	attrLong      = 0x0f
)

const (
	unitsPerRecord   = 13
	lastLong         = 0x40 // the long name's last record, which is the first
	maxFileRecords   = 1 + (maxName+unitsPerRecord-1)/unitsPerRecord
	recordsPerSector = sectorSize / recordSize
)

// labelSlots counts the records of the volume's label.
func (p *Planner) labelSlots() uint32 {
	if p.opts.Label == "" {
		return 0
	}
	return 1
}

// putRecords makes a sector of a directory.
func (p *Planner) putRecords(b []byte, d *directory, sector int64) {
	first := int(sector) * recordsPerSector
	if first == 0 {
		p.putFirst(b, d)
	}
	// From the last one that begins at or before the sector.
	i := sort.Search(len(d.files), func(i int) bool { return int(d.files[i].slot) > first })
	for i = max(i-1, 0); i < len(d.files); i++ {
		f := &d.files[i]
		at := int(f.slot) - first
		if at >= recordsPerSector {
			return
		}
		var buf [maxFileRecords * recordSize]byte
		made := f.put(buf[:])
		if at < 0 {
			made = made[min(-at*recordSize, len(made)):]
			at = 0
		}
		copy(b[at*recordSize:], made)
	}
}

// putFirst makes what a directory begins with: the volume's label in the root,
// "." and ".." elsewhere.
func (p *Planner) putFirst(b []byte, d *directory) {
	if d.parent == nil {
		if p.labelSlots() > 0 {
			putRecord(b, p.opts.Label, attrVolume, d.node, 0, 0)
		}
		return
	}
	up := d.parent.start
	if d.parent.parent == nil {
		up = 0 // the root has no number here
	}
	putRecord(b, ".", attrDirectory, d.node, d.start, 0)
	putRecord(b[recordSize:], "..", attrDirectory, d.parent.node, up, 0)
}

// put makes a name's records in b, which is zero, and returns them.
func (f *file) put(b []byte) []byte {
	b = b[:int(f.count)*recordSize]
	last := b
	if f.isLong() {
		last = b[len(b)-recordSize:]
		putLong(b[:len(b)-recordSize], f.named.name, f.short.checksum())
	}
	attr := byte(attrArchive)
	size := f.node.size
	if f.node.isDir() {
		attr, size = attrDirectory, 0
	} else if f.node.mode&(unix.S_IWUSR|unix.S_IWGRP|unix.S_IWOTH) == 0 {
		attr |= attrReadOnly
	}
	putRecord(last, string(f.short[:]), attr, f.node, f.start, uint32(size))
	return b
}

// putRecord makes a short name's record.
func putRecord(b []byte, name string, attr byte, n *node, start, size uint32) {
	putPadded(b[:11], name)
	b[11] = attr
	t := n.mtime
	b[13] = t.hundredths
	le.PutUint16(b[14:], t.clock) // creation
	le.PutUint16(b[16:], t.date)
	le.PutUint16(b[18:], t.date) // access
	le.PutUint16(b[20:], uint16(start>>16))
	le.PutUint16(b[22:], t.clock)
	le.PutUint16(b[24:], t.date)
	le.PutUint16(b[26:], uint16(start))
	le.PutUint32(b[28:], size)
}

// unitOffsets are where a long name's record has its UTF-16 units.
var unitOffsets = [unitsPerRecord]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

// putLong makes the records of a long name, the name's end first (fatgen103,
// "FAT Long Directory Entries").
func putLong(b []byte, name string, checksum byte) {
	count := len(b) / recordSize
	units := utf16.Encode([]rune(name))
	if len(units) < count*unitsPerRecord {
		units = append(units, 0)
	}
	for part := range count {
		r := b[(count-1-part)*recordSize:][:recordSize]
		r[0] = byte(part + 1)
		r[11] = attrLong
		r[13] = checksum
		for i, at := range unitOffsets {
			unit := uint16(padding)
			if j := part*unitsPerRecord + i; j < len(units) {
				unit = units[j]
			}
			le.PutUint16(r[at:], unit)
		}
	}
	b[0] |= lastLong
}
