package fat32

const (
	fsInfoSector = 1
	backupSector = 6
	noLabel      = "NO NAME"

	// A disk's geometry, as the partition table has it too.
	sectorsPerTrack = 63
	heads           = 255
)

// bootSectors makes the boot sector and FSInfo (fatgen103, "Boot Sector and
// BPB" and "FSInfo Sector Structure"), when the clusters below used are taken.
func (p *Planner) bootSectors(l *layout, used int64) []byte {
	b := make([]byte, 2*sectorSize)
	copy(b, "\xeb\x58\x90MSWIN4.1") // a jump over the fields, and what made it
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(l.clusterSize / sectorSize)
	le.PutUint16(b[14:], uint16(l.reserved))
	b[16] = 2 // FATs
	b[21] = media
	le.PutUint16(b[24:], sectorsPerTrack)
	le.PutUint16(b[26:], heads)
	le.PutUint32(b[28:], p.opts.Hidden)
	le.PutUint32(b[32:], uint32(l.sectors()))
	le.PutUint32(b[36:], uint32(l.fat))
	le.PutUint32(b[44:], rootCluster)
	le.PutUint16(b[48:], fsInfoSector)
	le.PutUint16(b[50:], backupSector)
	b[64] = 0x80 // the BIOS's number of the first disk
	b[66] = 0x29 // the next three fields are there
	le.PutUint32(b[67:], p.volumeID())
	label := p.opts.Label
	if label == "" {
		label = noLabel
	}
	putPadded(b[71:71+labelSize], label)
	putPadded(b[82:90], "FAT32")
	copy(b[90:], "\xcd\x18\xf4\xeb\xfd") // int 0x18: nothing to boot; then halt
	putSignature(b)

	info := b[sectorSize:]
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], uint32(l.clusters-(used-rootCluster)))
	le.PutUint32(info[492:], uint32(used-1)) // where to look for free ones
	putSignature(info)
	return b
}

func putSignature(sector []byte) { sector[510], sector[511] = 0x55, 0xaa }

// putPadded fills a field with spaces behind a text.
func putPadded(b []byte, s string) {
	for i := copy(b, s); i < len(b); i++ {
		b[i] = ' '
	}
}
