package ext4

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

// pointersPerBlock is how many block numbers an indirect block holds.
const pointersPerBlock = blockSize / 4

// The resize inode owns the blocks that the table of group descriptors can
// grow into, so that resize2fs and the kernel can enlarge the filesystem. It
// is a file with a doubly indirect block whose entries are the reserved blocks
// of group 0; each of these lists its copies in the groups that have backups
// (e2fsprogs lib/ext2fs/res_gdt.c).

// putResizeInode writes the inode into b, which is zero.
func (p *Planner) putResizeInode(b []byte, pl *placed, seed checksum) {
	le := binary.LittleEndian
	node := inode{
		mode: unix.S_IFREG | 0o600, links: 1,
		sec: p.opts.Created.Sec, nsec: p.opts.Created.Nsec,
		// The size up to which block pointers reach.
		size: (12 + pointersPerBlock + pointersPerBlock*pointersPerBlock) * blockSize,
	}
	le.PutUint16(b[0x00:], node.mode)
	le.PutUint16(b[0x1a:], node.linkCount())
	le.PutUint32(b[0x04:], uint32(node.size))
	le.PutUint32(b[0x6c:], uint32(node.size>>32))
	putTimes(b, &node)
	blocks := 1 + uint64(pl.reservedDescs)*uint64(1+len(pl.backups()))
	le.PutUint32(b[0x1c:], uint32(blocks*sectorsPerBlock))
	le.PutUint32(b[inodeBlock+13*4:], uint32(pl.resizeAt))
	sealInode(b, resizeInode, seed)
}

// backups lists the groups that have a copy of group 0's start.
func (l *layout) backups() []uint32 {
	var groups []uint32
	for g := uint32(1); g < l.groups; g++ {
		if hasSuper(g) {
			groups = append(groups, g)
		}
	}
	return groups
}

// addReserved adds the blocks of pointers of the resize inode.
func (pl *placed) addReserved(b *plan.Builder) {
	if pl.reservedDescs == 0 {
		return
	}
	le := binary.LittleEndian
	backups := pl.backups()
	double := make([]byte, blockSize)
	reserved := make([]byte, pl.reservedDescs*blockSize)
	first := 1 + pl.descBlocks
	for i := range pl.reservedDescs {
		// The entry is at the index that the block has in the table.
		le.PutUint32(double[(first-1+i)%pointersPerBlock*4:], first+i)
		for j, g := range backups {
			le.PutUint32(reserved[i*blockSize+uint32(j)*4:], first+i+g*blocksPerGroup)
		}
	}
	b.Put(int64(pl.resizeAt)*blockSize, double)
	if len(backups) > 0 {
		b.Put(int64(first)*blockSize, reserved)
	}
}
