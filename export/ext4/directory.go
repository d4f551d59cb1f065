package ext4

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	// direntsPerBlock is the part of a directory block that holds records; a
	// record of 12 bytes with the checksum ends the block (struct
	// ext4_dir_entry_tail).
	direntsPerBlock = blockSize - dirTailSize
	dirTailSize     = 12
	dirTailType     = 0xde

	direntHeader = 8 // before the name

	// maxDirectory is the size of a directory without the largedir feature.
	maxDirectory = 1<<31 - blockSize

	lostFound       = "lost+found"
	lostFoundBlocks = 4 // as mke2fs makes it, so that fsck needs no space
)

// directory holds the records of a linear directory as they will be on disk,
// except that the last one is not yet extended to the end of its block.
type directory struct {
	node      *inode
	number    uint32
	parent    uint32
	subdirs   uint32
	minBlocks uint32
	last      uint32 // offset of the last record
	records   []byte
}

// addDirectory makes a directory; parent is nil for the root.
func (p *Planner) addDirectory(path string, parent *directory, node *inode, number uint32) *directory {
	d := &directory{node: node, number: number, parent: number}
	if parent != nil {
		d.parent = parent.number
	}
	if number == lostFoundInode {
		d.minBlocks = lostFoundBlocks
	}
	d.add(".", number, fileType(node.mode))
	d.add("..", d.parent, fileType(node.mode))
	p.dirs[path] = d
	node.more().children = d
	return d
}

// addLostFound makes lost+found, unless the tree has it.
func (p *Planner) addLostFound() error {
	node := p.inodes.get(lostFoundInode)
	if node.mode != 0 {
		return nil
	}
	of := p.inodes.get(rootInode)
	e := overlay.Entry{
		Path: lostFound, Mode: unix.S_IFDIR | 0o700,
		Mtime: overlay.Time{Sec: of.sec, Nsec: of.nsec},
	}
	if err := p.fill(node, &e); err != nil {
		return err
	}
	p.enter(&e, p.root, lostFound, node, lostFoundInode)
	return nil
}

// add appends a record and returns its offset.
func (d *directory) add(name string, number uint32, kind byte) uint32 {
	size := direntSize(len(name))
	if used := len(d.records) % blockSize; used+size > direntsPerBlock {
		setRecLen(d.records[d.last:], direntsPerBlock-d.last%blockSize)
		d.records = append(d.records, make([]byte, blockSize-used)...)
	}
	d.last = uint32(len(d.records))
	d.records = append(d.records, make([]byte, size)...)
	record := d.records[d.last:]
	binary.LittleEndian.PutUint32(record, number)
	setRecLen(record, uint32(size))
	record[6], record[7] = byte(len(name)), kind
	copy(record[direntHeader:], name)
	return d.last
}

// direntSize is the length of a record, a multiple of 4.
func direntSize(name int) int { return (direntHeader + name + 3) &^ 3 }

func setRecLen(record []byte, n uint32) {
	binary.LittleEndian.PutUint16(record[4:], uint16(n))
}

// name returns the name of the record at an offset.
func (d *directory) name(at uint32) []byte {
	b := d.records[at:]
	return b[direntHeader : direntHeader+int(b[6])]
}

// follows tells whether a name comes after the one that was added last.
func (d *directory) follows(name string) bool {
	last := d.name(d.last)
	return string(last) == ".." || string(last) < name
}

// blocks counts the blocks.
func (d *directory) blocks() uint32 {
	return max(blocksOf(int64(len(d.records))), d.minBlocks)
}

// links is the link count: "." and a name, and ".." of each directory in it.
// Beyond what the field holds it is 1, for unknown (dir_nlink).
func (d *directory) links() uint32 {
	if n := 2 + d.subdirs; n <= maxLinks {
		return n
	}
	return 1
}

// block makes a block of the directory in b, which is zero.
func (d *directory) block(n uint32, b []byte, seed checksum) {
	start := int64(n) * blockSize
	if start >= int64(len(d.records)) {
		setRecLen(b, direntsPerBlock) // one record, not in use
	} else {
		copy(b, d.records[start:])
		if d.last/blockSize == n {
			at := d.last % blockSize
			setRecLen(b[at:], direntsPerBlock-at)
		}
	}
	tail := b[direntsPerBlock:]
	setRecLen(tail, dirTailSize)
	tail[7] = dirTailType
	binary.LittleEndian.PutUint32(tail[8:], uint32(seed.inode(d.number).add(b[:direntsPerBlock])))
}

// fileType is the type in a directory record (EXT4_FT_*).
func fileType(mode uint16) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	default:
		return 7 // symlink
	}
}
