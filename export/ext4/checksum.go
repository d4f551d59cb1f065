package ext4

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC32c that ext4 uses, which is not inverted at its start
// and end as usual, so that it can be continued (ext4_chksum).
type checksum uint32

const newChecksum checksum = 0xffffffff

func (c checksum) add(b []byte) checksum {
	return checksum(^crc32.Update(^uint32(c), castagnoli, b))
}

// addUint32 adds the four bytes of v, least significant first.
func (c checksum) addUint32(v uint32) checksum {
	for range 4 {
		c = checksum(castagnoli[byte(c)^byte(v)]) ^ c>>8
		v >>= 8
	}
	return c
}

// inode returns the seed for what belongs to an inode, whose generation is
// always 0 here; c is the filesystem's seed.
func (c checksum) inode(number uint32) checksum {
	return c.addUint32(number).addUint32(0)
}
