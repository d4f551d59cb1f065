package fat32

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Reader reads a FAT32 filesystem without mounting it: those planned here and
// those of other tools. It reads what it is asked for.
//
// Everything on the disk is taken for possibly wrong: what doesn't hold is an
// error that says where, and chains of clusters that never end do.
//
// A file's number is where its directory has its record, so it stays for as
// long as the filesystem isn't changed. A Reader is for one goroutine.
type Reader struct {
	src         io.ReaderAt
	boot        []byte // the boot sector
	sector      int64  // in bytes, as all that follow
	fat         int64  // where the FAT in use is
	fatSize     int64
	data        int64 // where the first cluster is
	clusterSize int64
	clusters    uint32 // numbers from 2 on
	root        uint32
	window      []byte // a part of the FAT
	windowAt    int64
}

const (
	rootNumber = 1 // a record can't be there: it is in the boot sector

	clusterMask = 0x0fffffff
	badCluster  = 0x0ffffff7
	lastCluster = 0x0ffffff8 // and above: the end of a chain

	// maxDirectoryRead is what a directory may have, in bytes: 65536 records
	// (fatgen103; FAT_MAX_DIR_ENTRIES of Linux).
	maxDirectoryRead = 65536 * recordSize

	windowSize = 64 << 10
)

// NewReader opens the filesystem that begins at src's beginning and may have
// size bytes. It is an error if there is none, if it is cut off, or if it is
// FAT12, FAT16 or exFAT.
func NewReader(src io.ReaderAt, size int64) (*Reader, error) {
	r := &Reader{src: src, boot: make([]byte, sectorSize)}
	if err := readFull(src, r.boot, 0); err != nil {
		return nil, fmt.Errorf("fat32 boot sector: %w", err)
	}
	if err := r.parse(size); err != nil {
		return nil, fmt.Errorf("fat32 boot sector: %w", err)
	}
	return r, nil
}

// parse reads the boot sector (fatgen103, "Boot Sector and BPB").
func (r *Reader) parse(size int64) error {
	b := r.boot
	if b[510] != 0x55 || b[511] != 0xaa {
		return errors.New("it has no signature")
	}
	r.sector = int64(le.Uint16(b[11:]))
	r.clusterSize = int64(b[13]) * r.sector
	reserved, fats := int64(le.Uint16(b[14:])), int64(b[16])
	total := int64(le.Uint32(b[32:]))
	if short := int64(le.Uint16(b[19:])); short != 0 {
		total = short
	}
	r.fatSize = int64(le.Uint32(b[36:])) * r.sector
	switch {
	case r.sector < 512 || r.sector > 4096 || r.sector&(r.sector-1) != 0:
		return fmt.Errorf("sectors can't have %d bytes", r.sector)
	case b[13] == 0 || b[13]&(b[13]-1) != 0:
		return fmt.Errorf("clusters can't have %d sectors", b[13])
	case le.Uint16(b[22:]) != 0 || le.Uint16(b[17:]) != 0:
		return errors.New("this is FAT12 or FAT16, not FAT32")
	case reserved == 0 || fats == 0 || r.fatSize == 0 || le.Uint16(b[42:]) != 0:
		return errors.New("no FAT32 filesystem here")
	case total*r.sector > size:
		return fmt.Errorf("the filesystem has %d bytes, but there are only %d: it is cut off", total*r.sector, size)
	}
	r.fat = reserved * r.sector
	if flags := le.Uint16(b[40:]); flags&0x80 != 0 { // one of the FATs is in use
		if int64(flags&0xf) >= fats {
			return fmt.Errorf("FAT %d of %d is in use", flags&0xf, fats)
		}
		r.fat += int64(flags&0xf) * r.fatSize
	}
	r.data = reserved*r.sector + fats*r.fatSize
	clusters := min((total*r.sector-r.data)/r.clusterSize, r.fatSize/4-rootCluster, maxClusters)
	if clusters <= 0 {
		return errors.New("there is no room for a cluster")
	}
	r.clusters, r.root = uint32(clusters), le.Uint32(b[44:])&clusterMask
	return r.valid(r.root)
}

// Format names the kind of filesystem.
func (r *Reader) Format() string { return "fat32" }

// Root returns the number of the root directory.
func (r *Reader) Root() uint64 { return rootNumber }

// readFull is ReadAt where the end of the source is an error.
func readFull(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}

// valid is an error unless there is such a cluster.
func (r *Reader) valid(cluster uint32) error {
	if cluster < rootCluster || cluster-rootCluster >= r.clusters {
		return fmt.Errorf("cluster %d is outside the filesystem", cluster)
	}
	return nil
}

func (r *Reader) offset(cluster uint32) int64 {
	return r.data + int64(cluster-rootCluster)*r.clusterSize
}

// next reads what the FAT says of a cluster, which must be valid.
func (r *Reader) next(cluster uint32) (uint32, error) {
	at := int64(cluster) * 4
	if r.window == nil || at < r.windowAt || at+4 > r.windowAt+int64(len(r.window)) {
		r.windowAt = at / windowSize * windowSize
		r.window = make([]byte, min(windowSize, r.fatSize-r.windowAt))
		if err := readFull(r.src, r.window, r.fat+r.windowAt); err != nil {
			r.window = nil
			return 0, err
		}
	}
	return le.Uint32(r.window[at-r.windowAt:]) & clusterMask, nil
}

// chain calls visit with each cluster of a chain, most at most. A chain that
// goes on is cut off there.
func (r *Reader) chain(start uint32, most int64, visit func(cluster uint32) error) error {
	for cluster := start; most > 0; most-- {
		if err := r.valid(cluster); err != nil {
			return err
		}
		if err := visit(cluster); err != nil {
			return err
		}
		next, err := r.next(cluster)
		switch {
		case err != nil:
			return err
		case next >= lastCluster:
			return nil
		case next == badCluster:
			return fmt.Errorf("cluster %d, which is marked as bad, follows cluster %d", next, cluster)
		}
		cluster = next
	}
	return nil
}

// record is a file's or a directory's short record.
type record []byte

func (r record) isDir() bool   { return r[11]&attrDirectory != 0 }
func (r record) start() uint32 { return uint32(le.Uint16(r[20:]))<<16 | uint32(le.Uint16(r[26:])) }
func (r record) size() int64   { return int64(le.Uint32(r[28:])) }

// record reads a file's record. The root, which has none, gets one.
func (r *Reader) record(number uint64) (record, error) {
	b := make(record, recordSize)
	if number == rootNumber {
		b[11] = attrDirectory
		le.PutUint16(b[20:], uint16(r.root>>16))
		le.PutUint16(b[26:], uint16(r.root))
		return b, nil
	}
	at := int64(number) * recordSize
	if at < r.data || at >= r.offset(rootCluster+r.clusters) {
		return nil, fmt.Errorf("record %d is outside the filesystem", number)
	}
	return b, readFull(r.src, b, at)
}

// Stat fills e with what is known of a file: all but Path and Content. What FAT
// doesn't have is as Linux shows it to root, without mount options.
func (r *Reader) Stat(number uint64, e *overlay.Entry) error {
	b, err := r.record(number)
	if err != nil {
		return err
	}
	*e = overlay.Entry{
		Mode: unix.S_IFREG | 0o755, Size: b.size(), Ino: number, Nlink: 1,
		Mtime: timeOf(le.Uint16(b[24:]), le.Uint16(b[22:])),
		Atime: timeOf(le.Uint16(b[18:]), 0),
	}
	e.Ctime = e.Mtime
	if b[11]&attrReadOnly != 0 {
		e.Mode = unix.S_IFREG | 0o555
	}
	if b.isDir() {
		e.Mode, e.Size = unix.S_IFDIR|0o755, 0
	}
	return nil
}

// timeOf reads a date and a time of day, which are UTC here. One that is none
// becomes the first that there is.
func timeOf(date, clock uint16) overlay.Time {
	year, month, day := 1980+int(date>>9), time.Month(date>>5&0xf), int(date&0x1f)
	t := time.Date(year, month, day, int(clock>>11), int(clock>>5&0x3f), int(clock&0x1f)*2, 0, time.UTC)
	if t.Month() != month || t.Day() != day {
		return overlay.Time{Sec: minTime}
	}
	return overlay.Time{Sec: t.Unix()}
}

// Extents calls yield with each part of a file's content: its offset in the
// file, in the filesystem, and its length, in bytes. Parts come in order, those
// next to each other are one. It is an error if the chain ends before the file
// does. An error of yield ends it.
func (r *Reader) Extents(number uint64, yield func(file, image, length int64) error) error {
	b, err := r.record(number)
	if err == nil {
		err = r.extents(b, yield)
	}
	if err != nil {
		return fmt.Errorf("file %d: %w", number, err)
	}
	return nil
}

func (r *Reader) extents(b record, yield func(file, image, length int64) error) error {
	size := b.size()
	if b.isDir() {
		size = maxDirectoryRead
	}
	if size == 0 {
		return nil
	}
	var file, image, length int64
	err := r.chain(b.start(), (size+r.clusterSize-1)/r.clusterSize, func(cluster uint32) error {
		at, more := r.offset(cluster), min(r.clusterSize, size-file-length)
		if length > 0 && image+length == at {
			length += more
			return nil
		}
		var err error
		if length > 0 {
			err = yield(file, image, length)
		}
		file, image, length = file+length, at, more
		return err
	})
	if err == nil && length > 0 {
		err = yield(file, image, length)
	}
	if err == nil && !b.isDir() && file+length < size {
		err = fmt.Errorf("it has %d bytes, but its clusters end at %d", size, file+length)
	}
	return err
}
