package export

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/DragonOS-Community/rootfs/export/ext4"
	"github.com/DragonOS-Community/rootfs/export/fat32"
)

// Image is an image that is opened for reading. It is for one goroutine.
type Image struct {
	Filesystem

	Path      string
	Table     PartitionTable
	Partition int   // from 1 on; 0 without a table
	Offset    int64 // of the filesystem, in bytes

	// Unpacked tells that offsets of content are in what the file holds when
	// it is decompressed.
	Unpacked bool

	src      io.ReaderAt // what offsets of content are in
	disk     *os.File
	files    []*os.File
	problems []string // of the partition table
}

// OpenImage opens the image in a file and finds out what it is: an ext2, ext3,
// ext4 or FAT32 filesystem, alone or in a partition of an MBR or GPT disk, a
// tar, compressed or not, or a docker archive. Where several partitions could
// be meant, partition says which, from 1 on; 0 is the only one. Close must be
// called. Errors name the file.
func OpenImage(path string, partition int) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	im := &Image{Path: path, Table: PartitionNone, src: f, disk: f, files: []*os.File{f}}
	if err := im.open(partition); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), im.Close())
	}
	return im, nil
}

// Close closes the image.
func (im *Image) Close() error {
	var errs []error
	for _, f := range im.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Check reports everything in the partition table and the filesystem that
// contradicts itself, a line each. An error of report ends it.
func (im *Image) Check(ctx context.Context, report func(problem string) error) error {
	for _, p := range im.problems {
		if err := report("partition table: " + p); err != nil {
			return err
		}
	}
	return im.Filesystem.Check(ctx, report)
}

// imageStart is how much of a file tells what it is.
const imageStart = 4096

var errNoImage = errors.New("neither a disk image with ext2, ext3, ext4 or FAT32, nor a tar, nor a docker archive")

func (im *Image) open(partition int) error {
	size, err := im.disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	start := make([]byte, imageStart)
	n, err := im.disk.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	start = start[:n]
	switch {
	case n == 0:
		return fmt.Errorf("empty: %w", errNoImage)
	case decompressorFor(start) != nil || isTar(start):
		return im.openTar(start, size)
	case n == imageStart && isGPT(start):
		return im.openGPT(partition, size)
	case isFilesystem(start):
		im.Filesystem, err = openFilesystem(start, im.disk, size)
		return err
	case n == imageStart && start[510] == 0x55 && start[511] == 0xaa:
		return im.openMBR(partition, size)
	}
	return errNoImage
}

// isGPT tells whether a GPT disk begins with these bytes: by its header, or by
// the partition of its protective MBR, should the header be damaged.
func isGPT(b []byte) bool {
	return string(b[512:520]) == "EFI PART" || b[510] == 0x55 && b[511] == 0xaa && b[mbrEntries+4] == 0xee
}

// isFilesystem tells whether a filesystem begins with these bytes: ext4 by its
// magic number, FAT by the jump and the medium that its boot sector begins with.
func isFilesystem(b []byte) bool {
	return len(b) == imageStart && (isExt4(b) || b[510] == 0x55 && b[511] == 0xaa &&
		(b[0] == 0xeb || b[0] == 0xe9) && b[21] >= 0xf0 && (b[16] == 1 || b[16] == 2))
}

func isExt4(b []byte) bool { return b[1024+0x38] == 0x53 && b[1024+0x39] == 0xef }

// openFilesystem opens the filesystem that begins with start.
func openFilesystem(start []byte, src io.ReaderAt, size int64) (Filesystem, error) {
	if isExt4(start) {
		return asFilesystem(ext4.NewReader(src, size))
	}
	return asFilesystem(fat32.NewReader(src, size))
}

func asFilesystem[F Filesystem](f F, err error) (Filesystem, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// partitionRange is a partition, in bytes.
type partitionRange struct {
	index      int
	start, len int64
}

func (im *Image) openMBR(partition int, size int64) error {
	table, err := mbr.Read(im.disk, sectorSize, sectorSize)
	if err != nil {
		return err
	}
	im.Table = PartitionMBR
	var all []partitionRange
	for i, p := range table.Partitions {
		switch {
		case p.Size == 0:
		case isExtended(byte(p.Type)):
			logical, err := im.logicalPartitions(int64(p.Start) * sectorSize)
			if err != nil {
				im.problems = append(im.problems, fmt.Sprintf("the logical partitions in partition %d: %v", i+1, err))
			}
			all = append(all, logical...)
		default:
			all = append(all, partitionRange{i + 1, int64(p.Start) * sectorSize, int64(p.Size) * sectorSize})
		}
	}
	return im.openPartition(all, partition, size)
}

// isExtended tells the types of a partition that holds others: of DOS, with LBA,
// and of Linux.
func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

const (
	firstLogical = 5   // as Linux numbers them
	maxLogical   = 256 // tables, more than Linux takes, so that a circle ends
)

// logicalPartitions reads the chain of tables in the extended partition at
// start. Of the two entries of each, one is a partition, from its table on, and
// one says where the next table is, from start on. After an error it returns
// those before.
func (im *Image) logicalPartitions(start int64) (all []partitionRange, err error) {
	at := start
	for range maxLogical {
		var b [sectorSize]byte
		if err := readAtFull(im.disk, b[:], at); err != nil {
			return all, err
		}
		if b[510] != 0x55 || b[511] != 0xaa {
			return all, fmt.Errorf("there is no table at byte %d", at)
		}
		next := int64(-1)
		for _, e := range [][]byte{b[mbrEntries : mbrEntries+16], b[mbrEntries+16 : mbrEntries+32]} {
			first := int64(binary.LittleEndian.Uint32(e[8:])) * sectorSize
			length := int64(binary.LittleEndian.Uint32(e[entrySectors:])) * sectorSize
			switch {
			case length == 0:
			case isExtended(e[4]):
				next = start + first
			default:
				all = append(all, partitionRange{firstLogical + len(all), at + first, length})
			}
		}
		if next < 0 {
			return all, nil
		}
		at = next
	}
	return nil, fmt.Errorf("more than %d tables", maxLogical)
}

func (im *Image) openGPT(partition int, size int64) error {
	table, err := readGPT(im.disk, size)
	if err != nil {
		return err
	}
	im.Table = PartitionGPT
	if table.RecoveredFromBackup {
		im.problems = append(im.problems, "the first copy is damaged")
	} else if err := table.Verify(im.disk, uint64(size)); err != nil {
		im.problems = append(im.problems, err.Error())
	}
	var all []partitionRange
	for _, p := range table.Partitions {
		if p.Start <= p.End && p.End < 1<<54 {
			all = append(all, partitionRange{p.Index, int64(p.Start) * sectorSize, int64(p.End-p.Start+1) * sectorSize})
		}
	}
	return im.openPartition(all, partition, size)
}

// readGPT reads the table, or its backup if the table is damaged.
func readGPT(disk *os.File, size int64) (*gpt.Table, error) {
	// The library takes the size of an entry and their number for granted.
	for _, at := range []int64{sectorSize, size/sectorSize*sectorSize - sectorSize} {
		var b [sectorSize]byte
		if _, err := disk.ReadAt(b[:], at); err != nil {
			return nil, err
		}
		if err := plausibleGPT(b[:]); err != nil {
			return nil, err
		}
	}
	return gpt.Read(disk, sectorSize, sectorSize)
}

// plausibleGPT checks the numbers that a header's table is read by (UEFI
// specification, "GPT Header").
func plausibleGPT(b []byte) error {
	if string(b[:8]) != "EFI PART" {
		return nil // the library says so
	}
	first, count, entry := binary.LittleEndian.Uint64(b[72:]), binary.LittleEndian.Uint32(b[80:]), binary.LittleEndian.Uint32(b[84:])
	if first > 1<<54 || count > 1024 || entry < 128 || entry > 4096 || entry&(entry-1) != 0 {
		return fmt.Errorf("a GPT of %d entries of %d bytes at sector %d", count, entry, first)
	}
	return nil
}

// openPartition opens the filesystem in one of the partitions: the one that is
// wanted, or the only one that has any.
func (im *Image) openPartition(all []partitionRange, want int, size int64) error {
	im.findOverlaps(all, size)
	var chosen *partitionRange
	var first []byte
	for i := range all {
		p := &all[i]
		if want != 0 && p.index != want {
			continue
		}
		if p.start >= size || p.len > size-p.start {
			if want == 0 && len(all) > 1 {
				continue
			}
			return fmt.Errorf("partition %d ends at byte %d, but there are only %d: it is cut off", p.index, p.start+p.len, size)
		}
		start := make([]byte, imageStart)
		if _, err := im.disk.ReadAt(start, p.start); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		switch {
		case !isFilesystem(start):
			continue
		case chosen != nil:
			return fmt.Errorf("there are filesystems in partitions %d and %d; say which with --partition", chosen.index, p.index)
		}
		chosen, first = p, start
	}
	if chosen == nil {
		if want != 0 {
			return fmt.Errorf("partition %d has no ext2, ext3, ext4 or FAT32 filesystem", want)
		}
		return fmt.Errorf("none of its %d partitions has an ext2, ext3, ext4 or FAT32 filesystem", len(all))
	}
	im.Partition, im.Offset = chosen.index, chosen.start
	fs, err := openFilesystem(first, io.NewSectionReader(im.disk, chosen.start, chosen.len), chosen.len)
	if err != nil {
		return fmt.Errorf("partition %d: %w", chosen.index, err)
	}
	im.Filesystem = fs
	im.src = io.NewSectionReader(im.disk, chosen.start, chosen.len)
	return nil
}

// findOverlaps takes down partitions that lie in each other or beyond the end.
func (im *Image) findOverlaps(all []partitionRange, size int64) {
	all = slices.SortedFunc(slices.Values(all), func(a, b partitionRange) int { return cmp.Compare(a.start, b.start) })
	for i, p := range all {
		if p.start+p.len > size {
			im.problems = append(im.problems, fmt.Sprintf("partition %d ends at byte %d of %d", p.index, p.start+p.len, size))
		}
		if i > 0 && all[i-1].start+all[i-1].len > p.start {
			im.problems = append(im.problems, fmt.Sprintf("partitions %d and %d overlap", all[i-1].index, p.index))
		}
	}
}

// isTar tells whether a tar begins with these bytes: one without members, or a
// header whose checksum holds.
func isTar(b []byte) bool {
	if len(b) < tarBlock {
		return false
	}
	if len(b) >= 2*tarBlock && bytes.Equal(b, make([]byte, len(b))) {
		return len(b) < imageStart // more zeros are nothing
	}
	s := tarScanner{src: bytes.NewReader(b), end: int64(len(b))}
	_, err := s.header()
	return err == nil
}

// decompressorFor tells by the first bytes how to decompress what follows: RFC
// 1952 §2.3.1, the .xz file format §2.1.1.1 and RFC 8878 §3.1.1 and, of a
// skippable frame, with which pzstd begins, §3.1.2. It returns nil if they are of
// none.
func decompressorFor(b []byte) func(io.Reader) (io.ReadCloser, error) {
	switch {
	case bytes.HasPrefix(b, []byte("\x1f\x8b")):
		return func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }
	case bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")):
		return func(r io.Reader) (io.ReadCloser, error) {
			x, err := xz.NewReader(r)
			return io.NopCloser(x), err
		}
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")), bytes.HasPrefix(b, []byte("\x50\x2a\x4d\x18")):
		return func(r io.Reader) (io.ReadCloser, error) {
			z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(1<<30))
			if err != nil {
				return nil, err
			}
			return z.IOReadCloser(), nil
		}
	}
	return nil
}
