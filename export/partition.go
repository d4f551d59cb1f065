package export

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
	"github.com/google/uuid"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

// PartitionTable is the kind of a disk image's partition table.
type PartitionTable string

// The partition tables. Without one, the filesystem is the whole disk.
const (
	PartitionNone PartitionTable = "none"
	PartitionMBR  PartitionTable = "mbr"
	PartitionGPT  PartitionTable = "gpt"
)

const (
	sectorSize = 512
	// partitionStart is where partitioning tools let the first partition
	// begin, so that it is aligned on every kind of disk. It is also what is
	// kept at the end for a backup table, of which GPT needs 33 sectors.
	partitionStart = 1 << 20
)

// Overhead returns how many bytes a disk with this table has besides its
// filesystem.
func (t PartitionTable) Overhead() int64 {
	switch t {
	case PartitionMBR:
		return partitionStart
	case PartitionGPT:
		return 2 * partitionStart
	}
	return 0
}

// DiskOptions describes a disk image of one partition.
type DiskOptions struct {
	Table PartitionTable

	// FAT tells that the filesystem is FAT32; otherwise it is one of Linux.
	FAT bool

	// ID is what the identifiers of the disk and the partition are derived
	// from, such as the filesystem's UUID.
	ID [16]byte
}

// NewDisk returns the plan of a disk that holds the filesystem in one
// partition, which begins at 1 MiB, and takes that plan over; with
// [PartitionNone], the filesystem's own.
// It is an error if the table can't describe the filesystem.
func NewDisk(filesystem *plan.Plan, opts DiskOptions) (*plan.Plan, error) {
	if opts.Table == PartitionNone {
		return filesystem, nil
	}
	size := filesystem.Size()
	if size <= 0 || size%sectorSize != 0 {
		return nil, fmt.Errorf("a filesystem of %d bytes is not a whole number of %d-byte sectors", size, sectorSize)
	}
	disk := size + opts.Table.Overhead()
	var table tableWriter
	var err error
	switch opts.Table {
	case PartitionMBR:
		err = table.writeMBR(size, opts)
	case PartitionGPT:
		err = table.writeGPT(size, opts)
	default:
		return nil, fmt.Errorf("partition table %q is unknown: none, mbr and gpt are known", opts.Table)
	}
	if err != nil {
		return nil, err
	}
	var b plan.Builder
	for _, p := range table.pieces {
		b.Put(p.off, p.data)
	}
	b.Embed(partitionStart, filesystem)
	return b.Build(disk)
}

// Offsets in a master boot record and in its partition entries.
const (
	mbrSignature = 440 // of the disk, 4 bytes; as Linux and Windows use it
	mbrEntries   = 446
	entryCHS     = 1
	entryEndCHS  = 5
	entrySectors = 12
)

func (w *tableWriter) writeMBR(size int64, opts DiskOptions) error {
	const start = partitionStart / sectorSize
	sectors := size / sectorSize
	if start+sectors > math.MaxUint32 {
		return fmt.Errorf("an MBR can't describe a partition of %d bytes: its limit is 2 TiB; use gpt", size)
	}
	kind := mbr.Linux
	if opts.FAT {
		kind = mbr.Fat32LBA
	}
	p := &mbr.Partition{Index: 1, Type: kind, Start: start, Size: uint32(sectors)}
	p.StartHead, p.StartSector, p.StartCylinder = chs(start)
	p.EndHead, p.EndSector, p.EndCylinder = chs(start + sectors - 1)
	table := &mbr.Table{LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, Partitions: []*mbr.Partition{p}}
	if err := table.Write(w, size+partitionStart); err != nil {
		return err
	}
	// The library keeps the signature that a disk has and can't set one.
	id := derive(opts.ID, "MBR disk signature")
	id[0] = max(id[0], 1) // zero means none
	w.put(mbrSignature, id[:4])
	return nil
}

// chs returns a sector's address on a disk of 255 heads and 63 sectors, as an
// entry holds it: what is beyond is its last address.
func chs(lba int64) (head, sector, cylinder byte) {
	const heads, sectors = 255, 63
	c := lba / (heads * sectors)
	if c > 1023 {
		return 254, 0xff, 0xff
	}
	return byte(lba / sectors % heads), byte(lba%sectors+1) | byte(c>>8<<6), byte(c)
}

func (w *tableWriter) writeGPT(size int64, opts DiskOptions) error {
	kind := gpt.LinuxFilesystem
	if opts.FAT {
		kind = gpt.MicrosoftBasicData
	}
	table := &gpt.Table{
		LogicalSectorSize:  sectorSize,
		PhysicalSectorSize: sectorSize,
		GUID:               deriveGUID(opts.ID, "GPT disk"),
		ProtectiveMBR:      true,
		Partitions: []*gpt.Partition{{
			Index: 1,
			Type:  kind,
			GUID:  deriveGUID(opts.ID, "GPT partition 1"),
			Start: partitionStart / sectorSize,
			Size:  uint64(size),
			Name:  "rootfs",
		}},
	}
	disk := size + PartitionGPT.Overhead()
	if err := table.Write(w, disk); err != nil {
		return err
	}
	// UEFI specification, "Protective MBR Partition Record": the library
	// leaves the CHS fields zero and cuts a size of more than 32 bits.
	entry := w.at(mbrEntries)
	if len(entry) < 16 {
		return errors.New("no protective MBR was written")
	}
	copy(entry[entryCHS:], []byte{0x00, 0x02, 0x00})
	copy(entry[entryEndCHS:], []byte{0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[entrySectors:], uint32(min(disk/sectorSize-1, math.MaxUint32)))
	return nil
}

// derive returns an identifier for one use that depends on id alone.
func derive(id [16]byte, use string) [16]byte {
	sum := sha256.Sum256(append(id[:], use...))
	return [16]byte(sum[:16])
}

// deriveGUID returns a UUID of version 8, which are those of other methods
// than the standard's (RFC 9562, section 5.8).
func deriveGUID(id [16]byte, use string) string {
	u := uuid.UUID(derive(id, use))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}

// tableWriter is a disk to go-diskfs and keeps what is written to it. It can't
// be read: the library only writes a new table.
type tableWriter struct {
	pieces []piece
}

type piece struct {
	off  int64
	data []byte
}

var _ backend.WritableFile = (*tableWriter)(nil)

func (w *tableWriter) put(off int64, data []byte) {
	w.pieces = append(w.pieces, piece{off, slices.Clone(data)})
}

// at returns what was written at an offset, to be mended.
func (w *tableWriter) at(off int64) []byte {
	for _, p := range w.pieces {
		if p.off == off {
			return p.data
		}
	}
	return nil
}

// WriteAt implements [io.WriterAt].
func (w *tableWriter) WriteAt(p []byte, off int64) (int, error) {
	w.put(off, p)
	return len(p), nil
}

func (w *tableWriter) Stat() (fs.FileInfo, error)        { return nil, errors.ErrUnsupported }
func (w *tableWriter) Read([]byte) (int, error)          { return 0, errors.ErrUnsupported }
func (w *tableWriter) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (w *tableWriter) Seek(int64, int) (int64, error)    { return 0, errors.ErrUnsupported }
func (w *tableWriter) Close() error                      { return nil }
