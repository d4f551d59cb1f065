package ext4

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// prepareJournal makes the inode of an empty journal, or none.
func (p *Planner) prepareJournal(l *layout) {
	node := p.inodes.get(journalInode)
	*node = inode{}
	if l.journalBlocks == 0 {
		return
	}
	*node = inode{
		mode: unix.S_IFREG | 0o600, links: 1,
		size: int64(l.journalBlocks) * blockSize,
		sec:  p.opts.Created.Sec, nsec: p.opts.Created.Nsec,
	}
}

// journalSuper makes the first block of the journal, which says that it is
// empty (journal_superblock_t of include/linux/jbd2.h; big endian). It has no
// features: the kernel sets those it wants when it mounts.
func journalSuper(blocks uint32) []byte {
	be := binary.BigEndian
	b := make([]byte, superSize)
	be.PutUint32(b[0x00:], 0xc03b3998) // magic
	be.PutUint32(b[0x04:], 4)          // a superblock of version 2
	be.PutUint32(b[0x0c:], blockSize)
	be.PutUint32(b[0x10:], blocks)
	be.PutUint32(b[0x14:], 1) // first block of log
	be.PutUint32(b[0x18:], 1) // first transaction to expect
	be.PutUint32(b[0x40:], 1) // users
	return b
}

// putJournalBackup copies where the journal is into a superblock, so that
// e2fsck can find it if the inode is lost.
func (p *Planner) putJournalBackup(b []byte, pl *placed) {
	le := binary.LittleEndian
	node := p.inodes.get(journalInode)
	var raw [inodeSize]byte
	pl.putPointers(raw[:], node)
	le.PutUint32(b[0xe0:], journalInode)
	b[0xfd] = 1 // s_jnl_backup_type: block pointers
	copy(b[0x10c:], raw[inodeBlock:inodeBlock+blockPointers])
	le.PutUint32(b[0x10c+blockPointers:], uint32(node.size>>32))
	le.PutUint32(b[0x10c+blockPointers+4:], uint32(node.size))
}
