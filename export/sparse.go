package export

import (
	"strconv"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// holeUnit is the least hole that is kept, and its alignment: filesystems
// differ in theirs, and the archive should not differ with them.
const holeUnit = 4096

// maxRanges is how many parts a sparse file may have: readers of Go's, docker,
// podman and this program among them, refuse a map of more than 1 MiB.
const maxRanges = 20_000

// dataRanges lists the parts of f's first size bytes that hold data, in whole
// units: the smallest holes are filled where there would be too many parts.
func dataRanges(f *overlay.File, size int64) ([]plan.Range, error) {
	ranges, err := plan.DataRanges(f, size)
	if err != nil {
		return nil, err
	}
	return inUnits(ranges, size), nil
}

// inUnits makes the ranges whole units, of a size that leaves few enough. It
// takes them over.
func inUnits(ranges []plan.Range, size int64) []plan.Range {
	for unit := int64(holeUnit); ; unit *= 2 {
		whole := ranges[:0]
		for _, r := range ranges {
			start := r.Off &^ (unit - 1)
			end := min((r.Off+r.Len+unit-1)&^(unit-1), size)
			if last := len(whole) - 1; last >= 0 && whole[last].Off+whole[last].Len >= start {
				whole[last].Len = end - whole[last].Off
			} else {
				whole = append(whole, plan.Range{Off: start, Len: end - start})
			}
		}
		if ranges = whole; len(ranges) <= maxRanges {
			return ranges
		}
	}
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
