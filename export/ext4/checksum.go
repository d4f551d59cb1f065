package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC32c that ext4 uses, which is not inverted at its start
// and end as usual, so that it can be continued (ext4_chksum).
type checksum uint32

const newChecksum checksum = 0xffffffff

func (c checksum) add(b []byte) checksum {
	return checksum(^crc32.Update(^uint32(c), castagnoli, b))
}

func (c checksum) addUint32(v uint32) checksum {
	return c.add(binary.LittleEndian.AppendUint32(make([]byte, 0, 4), v))
}

// inode returns the seed for what belongs to an inode, whose generation is
// always 0 here; c is the filesystem's seed.
func (c checksum) inode(number uint32) checksum {
	return c.addUint32(number).addUint32(0)
}
