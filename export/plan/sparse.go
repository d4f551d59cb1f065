package plan

import (
	"errors"
	"fmt"

	"github.com/DragonOS-Community/rootfs/overlay"
	"golang.org/x/sys/unix"
)

// Range is a part of a file, in bytes.
type Range struct {
	Off, Len int64
}

// DataRanges lists the parts of f's first size bytes that aren't holes, in
// order. A filesystem that can't tell holes has none: everything is data.
// The file's position is moved.
func DataRanges(f *overlay.File, size int64) ([]Range, error) {
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
