package ext4

import (
	"path"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Inode numbers that have a meaning.
const (
	rootInode      = 2
	resizeInode    = 7
	journalInode   = 8
	lostFoundInode = 11
	firstFreeInode = 11 // how many are taken from the start
	maxInodes      = 1<<32 - 1
)

// inode is what an inode will be made from. There is one for each file, so it
// is kept small, and what only few have is in extra.
type inode struct {
	size       int64
	sec        int64 // mtime
	nsec       uint32
	uid, gid   uint32
	links      uint32 // names of a file; unused for a directory
	start      uint32 // place of the first data block in the free space
	xattrBlock uint32 // place of the attributes' block in the free space
	mode       uint16
	nameAt     uint32 // offset of the first name's record in dir
	dir        *directory
	content    overlay.Content
	extra      *extra
}

// extra is what an inode may have besides.
type extra struct {
	target       string
	xattrs       []overlay.Xattr
	runs         []run      // blocks that have data, when not all have
	children     *directory // of a directory
	major, minor uint32     // of a device
	treeBlocks   uint32     // blocks of the extent tree, after the data
	root         []byte     // the tree's root, when the tree has such blocks
	inline       bool       // the attributes are in the inode
}

// run is a range of a file's blocks.
type run struct{ first, count uint32 }

// more returns what the inode has besides, to be changed.
func (i *inode) more() *extra {
	if i.extra == nil {
		i.extra = new(extra)
	}
	return i.extra
}

// String returns the path of the inode's first name.
func (i *inode) String() string {
	if i.dir == nil {
		return "."
	}
	return path.Join(i.dir.node.String(), string(i.dir.name(i.nameAt)))
}

// Open opens the content, which makes an inode an [overlay.Content] that has
// the name it has in the image.
func (i *inode) Open() (*overlay.File, error) { return i.content.Open() }

func (i *inode) kind() uint16 { return i.mode & unix.S_IFMT }

// isShortLink tells whether the target is in the inode itself.
func (i *inode) isShortLink() bool {
	return i.kind() == unix.S_IFLNK && i.size < blockPointers
}

// hasExtents tells whether the inode's block pointers are an extent tree.
func (i *inode) hasExtents() bool {
	switch i.kind() {
	case unix.S_IFREG, unix.S_IFDIR:
		return true
	case unix.S_IFLNK:
		return !i.isShortLink()
	}
	return false
}

// runs lists the blocks that have data. one is where it may put the only run,
// so that the usual file costs no allocation.
func (i *inode) runs(one *[1]run) []run {
	if i.extra != nil && i.extra.runs != nil {
		return i.extra.runs
	}
	if !i.hasExtents() || i.size == 0 && i.kind() != unix.S_IFDIR {
		return nil
	}
	one[0] = run{0, blocksOf(i.diskSize())}
	return one[:]
}

// dataBlocks counts the blocks that have data.
func (i *inode) dataBlocks() uint64 {
	var one [1]run
	var n uint64
	for _, r := range i.runs(&one) {
		n += uint64(r.count)
	}
	return n
}

// treeBlocks counts the blocks that the extent tree has outside the inode.
func (i *inode) treeBlocks() uint32 {
	if i.extra == nil {
		return 0
	}
	return i.extra.treeBlocks
}

// xattrs returns the extended attributes.
func (i *inode) xattrs() []overlay.Xattr {
	if i.extra == nil {
		return nil
	}
	return i.extra.xattrs
}

// blocksOf returns how many blocks n bytes take.
func blocksOf(n int64) uint32 { return uint32((n + blockSize - 1) / blockSize) }

// inodeTable holds inodes by number, in chunks that never move.
type inodeTable struct {
	chunks []*[inodeChunk]inode
	count  uint32 // the highest number
}

const inodeChunk = 512

// add returns a new inode and its number.
func (t *inodeTable) add() (*inode, uint32) {
	if t.count%inodeChunk == 0 {
		t.chunks = append(t.chunks, new([inodeChunk]inode))
	}
	t.count++
	return t.get(t.count), t.count
}

// get returns the inode of a number from 1 to count.
func (t *inodeTable) get(number uint32) *inode {
	return &t.chunks[(number-1)/inodeChunk][(number-1)%inodeChunk]
}
