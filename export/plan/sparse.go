package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/DragonOS-Community/rootfs/overlay"
	"golang.org/x/sys/unix"
)

// Range is a part of a file, in bytes.
type Range struct {
	Off, Len int64
}

// DataRanges lists the parts of f's first size bytes that aren't holes, in
// order. Space that is reserved for what will be written is none. A filesystem
// that can't tell holes has none: everything is data. The file's position is
// moved.
func DataRanges(f *overlay.File, size int64) ([]Range, error) {
	ranges, err := notHoles(f, size)
	if err != nil || len(ranges) == 1 && ranges[0] == (Range{0, size}) {
		return ranges, err
	}
	return join(append(ranges, reserved(f, size)...)), nil
}

// notHoles lists what isn't a hole to SEEK_DATA. Reserved space is to it, until
// somebody reads it: what is in the page cache counts (ext4, XFS).
func notHoles(f *overlay.File, size int64) ([]Range, error) {
	var ranges []Range
	for off := int64(0); off < size; {
		start, err := unix.Seek(f.Fd(), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		if errors.Is(err, unix.EINVAL) && off == 0 {
			return []Range{{0, size}}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find data of %s: %w", f.Name(), err)
		}
		if start >= size {
			break
		}
		end, err := unix.Seek(f.Fd(), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find holes of %s: %w", f.Name(), err)
		}
		end = min(end, size)
		if end <= start {
			return nil, fmt.Errorf("find holes of %s: changed meanwhile", f.Name())
		}
		ranges = append(ranges, Range{start, end - start})
		off = end
	}
	return ranges, nil
}

// fiemap is a request for a file's extents and what the kernel answers
// (include/uapi/linux/fiemap.h).
type fiemap struct {
	start, length uint64
	flags         uint32
	mapped, count uint32
	_             uint32
	extents       [64]struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

const (
	fsIOCFiemap     = 0xc020660b // FS_IOC_FIEMAP
	extentLast      = 0x1        // FIEMAP_EXTENT_LAST
	extentUnwritten = 0x800      // FIEMAP_EXTENT_UNWRITTEN
)

// reserved lists the parts of f that have space and were not written to; none
// where the filesystem doesn't tell.
func reserved(f *overlay.File, size int64) (ranges []Range) {
	for off := int64(0); off < size; {
		m := fiemap{start: uint64(off), length: uint64(size - off)}
		m.count = uint32(len(m.extents))
		if _, _, err := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Fd()), fsIOCFiemap, uintptr(unsafe.Pointer(&m))); err != 0 || m.mapped == 0 {
			break
		}
		for _, x := range m.extents[:m.mapped] {
			start, end := max(int64(x.logical), off), min(int64(x.logical+x.length), size)
			if x.flags&extentUnwritten != 0 && start < end {
				ranges = append(ranges, Range{start, end - start})
			}
			if x.flags&extentLast != 0 || end <= off {
				return ranges
			}
			off = end
		}
	}
	return ranges
}

// join sorts ranges and makes one of those that touch. It takes them over.
func join(ranges []Range) []Range {
	slices.SortFunc(ranges, func(a, b Range) int { return cmp.Compare(a.Off, b.Off) })
	joined := ranges[:0]
	for _, r := range ranges {
		if last := len(joined) - 1; last >= 0 && joined[last].Off+joined[last].Len >= r.Off {
			joined[last].Len = max(joined[last].Len, r.Off+r.Len-joined[last].Off)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}
