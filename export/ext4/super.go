package ext4

import "encoding/binary"

// Features (EXT4_FEATURE_*). The incompatible and the read-only-compatible
// ones are all among those that DragonOS knows.
const (
	compatJournal     = 0x4
	compatXattr       = 0x8
	compatResizeInode = 0x10

	incompatFeatures = 0x2 | 0x40 | 0x80 | 0x200 // filetype, extents, 64bit, flex_bg

	// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
	roCompatFeatures = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400
)

const (
	superOffset = 1024 // of the first copy, in the image
	superSize   = 1024
)

// superblock makes the superblock (struct ext4_super_block) of a group.
func (p *Planner) superblock(pl *placed, group uint32, c groupCounts) []byte {
	b := make([]byte, superSize)
	p.putGeometry(b, pl, c)
	p.putIdentity(b)
	le := binary.LittleEndian
	compat := uint32(compatXattr)
	if pl.journalBlocks > 0 {
		compat |= compatJournal
		p.putJournalBackup(b, pl)
	}
	if pl.reservedDescs > 0 {
		compat |= compatResizeInode
	}
	le.PutUint32(b[0x5c:], compat)
	le.PutUint32(b[0x60:], incompatFeatures)
	le.PutUint32(b[0x64:], roCompatFeatures)
	le.PutUint16(b[0x5a:], uint16(group))
	b[0x175] = 1 // s_checksum_type: CRC32c
	le.PutUint32(b[superSize-4:], uint32(newChecksum.add(b[:superSize-4])))
	return b
}

func (p *Planner) putGeometry(b []byte, pl *placed, c groupCounts) {
	le := binary.LittleEndian
	le.PutUint32(b[0x00:], uint32(pl.inodeCount()))
	le.PutUint32(b[0x04:], uint32(pl.blocks))
	le.PutUint32(b[0x0c:], uint32(c.freeBlocks))
	le.PutUint32(b[0x10:], uint32(c.freeInodes))
	le.PutUint32(b[0x18:], 2) // log2(block size / 1024)
	le.PutUint32(b[0x1c:], 2) // log2(cluster size / 1024)
	le.PutUint32(b[0x20:], blocksPerGroup)
	le.PutUint32(b[0x24:], blocksPerGroup) // clusters
	le.PutUint32(b[0x28:], pl.inodesPerGroup)
	le.PutUint16(b[0x36:], 0xffff) // s_max_mnt_count: no check by mounts
	le.PutUint16(b[0x38:], 0xef53)
	le.PutUint16(b[0x3a:], 1) // s_state: clean
	le.PutUint16(b[0x3c:], 1) // s_errors: continue
	le.PutUint32(b[0x4c:], 1) // s_rev_level
	le.PutUint32(b[0x54:], lostFoundInode)
	le.PutUint16(b[0x58:], inodeSize)
	le.PutUint16(b[0xce:], uint16(pl.reservedDescs))
	le.PutUint16(b[0xfe:], descSize)
	le.PutUint16(b[0x15c:], inodeFields-0x80) // s_min_extra_isize
	le.PutUint16(b[0x15e:], inodeFields-0x80) // s_want_extra_isize
	b[0x174] = byte(pl.flexShift)
}

func (p *Planner) putIdentity(b []byte) {
	le := binary.LittleEndian
	uuid, seed := p.identifiers()
	copy(b[0x68:], uuid[:])
	copy(b[0x78:0x88], p.opts.Label)
	copy(b[0xec:], seed[:])
	b[0xfc] = 1                   // s_def_hash_version: half MD4, should dir_index be switched on
	le.PutUint32(b[0x100:], 0xc)  // s_default_mount_opts: user_xattr, acl
	le.PutUint32(b[0x160:], 0x1)  // s_flags: hashes of signed characters
	created := p.opts.Created.Sec // 40 bits each
	for _, at := range [][2]int{  // low and high part
		{0x30, 0x274},  // s_wtime
		{0x40, 0x277},  // s_lastcheck
		{0x108, 0x276}, // s_mkfs_time
	} {
		le.PutUint32(b[at[0]:], uint32(created))
		b[at[1]] = byte(created >> 32)
	}
}
