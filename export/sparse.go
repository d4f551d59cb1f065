package export

import (
	"strconv"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// holeUnit is the least hole that is kept, and its alignment: filesystems
// differ in theirs, and the archive should not differ with them.
const holeUnit = 4096

// dataRanges lists the parts of f's first size bytes that hold data, in whole
// units.
func dataRanges(f *overlay.File, size int64) ([]plan.Range, error) {
	exact, err := plan.DataRanges(f, size)
	if err != nil {
		return nil, err
	}
	ranges := exact[:0]
	for _, r := range exact {
		start := r.Off &^ (holeUnit - 1)
		end := min((r.Off+r.Len+holeUnit-1)&^(holeUnit-1), size)
		if last := len(ranges) - 1; last >= 0 && ranges[last].Off+ranges[last].Len >= start {
			ranges[last].Len = end - ranges[last].Off
		} else {
			ranges = append(ranges, plan.Range{Off: start, Len: end - start})
		}
	}
	return ranges, nil
}

// sparseHeader changes a file's header into that of a sparse file of the
// given ranges and returns the map that goes before the data (GNU tar manual,
// "Storing Sparse Files", PAX format 1.0). h.size is the file's length before
// and the archived length after.
func sparseHeader(h *tarHeader, dir, base string, ranges []plan.Range) []byte {
	size := h.size
	// A map that does not end where the file does gets an empty last range.
	if n := len(ranges); n == 0 || ranges[n-1].Off+ranges[n-1].Len < size {
		ranges = append(ranges[:n:n], plan.Range{Off: size})
	}
	m := append(strconv.AppendInt(nil, int64(len(ranges)), 10), '\n')
	h.size = 0
	for _, r := range ranges {
		m = append(strconv.AppendInt(m, r.Off, 10), '\n')
		m = append(strconv.AppendInt(m, r.Len, 10), '\n')
		h.size += r.Len
	}
	m = append(m, make([]byte, padding(int64(len(m))))...)
	h.size += int64(len(m))
	h.extra = append([]paxRecord{
		{"GNU.sparse.major", "1"},
		{"GNU.sparse.minor", "0"},
		{"GNU.sparse.name", h.name},
		{"GNU.sparse.realsize", strconv.FormatInt(size, 10)},
	}, h.extra...)
	// The name that a reader without sparse files shows: not the file's own,
	// since what it extracts is not the file.
	h.name = dir + "/GNUSparseFile.0/" + base
	h.name = h.name[:min(len(h.name), 100)]
	return m
}
