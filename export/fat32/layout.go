package fat32

import (
	"fmt"
	"sort"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

const (
	rootCluster = 2 // the first that there is

	// minClusters makes a filesystem FAT32: with fewer it is FAT16, whatever
	// else it says. Some readers are off by a few, so the specification wants
	// a distance of 16 (fatgen103, "FAT Type Determination").
	minClusters = 65525 + 16

	// maxClusters keeps numbers below that of a bad cluster, 0x0ffffff7.
	maxClusters = 0x0ffffff5

	sizeUnit = 1 << 20 // what an automatic size is a multiple of, in bytes
)

// clusterSizes are what Windows and mkfs.vfat choose, by the size of the image
// (fatgen103, DskTableFAT32). Sizes are in bytes.
var clusterSizes = []struct{ upTo, cluster int64 }{
	{260 << 20, 512},
	{8 << 30, 4 << 10},
	{16 << 30, 8 << 10},
	{32 << 30, 16 << 10},
	{maxSectors * sectorSize, 32 << 10},
}

// usualCluster is the size of clusters in an image of a size in bytes.
func usualCluster(size int64) int64 {
	for _, c := range clusterSizes {
		if size <= c.upTo {
			return c.cluster
		}
	}
	return clusterSizes[len(clusterSizes)-1].cluster
}

// layout is where the parts of a filesystem are. Counts are in sectors, unless
// a name says otherwise.
type layout struct {
	size        int64 // of the image, in bytes
	clusterSize int64 // in bytes
	reserved    int64 // before the first FAT
	fat         int64 // one of the two
	clusters    int64
}

// layoutOf returns a filesystem of a number of clusters. Its FATs and its
// clusters begin at a multiple of the cluster's size, as mkfs.vfat has it.
func layoutOf(clusters, clusterSize int64) layout {
	per := clusterSize / sectorSize
	const numbersPerSector = sectorSize / 4
	fat := (clusters + rootCluster + numbersPerSector - 1) / numbersPerSector
	return layout{
		clusterSize: clusterSize,
		reserved:    max(32, per),
		fat:         (fat + per - 1) / per * per,
		clusters:    clusters,
	}
}

// sectors is the length of the filesystem, which the image may exceed by less
// than what one more cluster would need.
func (l *layout) sectors() int64 {
	return l.reserved + 2*l.fat + l.clusters*(l.clusterSize/sectorSize)
}

// offset returns where a cluster begins, in bytes.
func (l *layout) offset(cluster uint32) int64 {
	return (l.reserved+2*l.fat)*sectorSize + int64(cluster-rootCluster)*l.clusterSize
}

// within returns the largest filesystem that fits a size in bytes.
func within(size, clusterSize int64) layout {
	most := int(min(size/clusterSize, maxClusters))
	n := sort.Search(most, func(n int) bool {
		l := layoutOf(int64(n)+1, clusterSize)
		return l.sectors() > size/sectorSize
	})
	l := layoutOf(int64(n), clusterSize)
	l.size = size
	return l
}

// choose returns the layout of the size that was asked for, or of the size
// that the content needs.
func (p *Planner) choose() (*layout, error) {
	if p.opts.Size == 0 {
		return p.chooseAuto(p.opts.Free)
	}
	// Many small files fit smaller clusters only.
	for c := usualCluster(p.opts.Size); c >= sectorSize && p.opts.Size/c <= maxClusters; c /= 2 {
		l := within(p.opts.Size, c)
		if l.clusters >= max(minClusters, p.clusters(c)) {
			return &l, nil
		}
	}
	least, err := p.least()
	if err != nil {
		return nil, err
	}
	return nil, &plan.SizeError{Size: p.opts.Size, Need: least}
}

// least returns the smallest size that holds everything, with whatever clusters
// choose takes for it.
func (p *Planner) least() (int64, error) {
	var least int64
	for c := int64(sectorSize); c <= clusterSizes[len(clusterSizes)-1].cluster; c *= 2 {
		var from int64 // smaller images aren't tried with these clusters
		for _, usual := range clusterSizes {
			if usual.cluster < c {
				from = usual.upTo/sizeUnit*sizeUnit + sizeUnit
			}
		}
		need := max(p.clusters(c), minClusters)
		l := layoutOf(need, c)
		size := max(inUnits(l.sectors()*sectorSize), from)
		if need <= maxClusters && size/c <= maxClusters && size <= maxSectors*sectorSize && (least == 0 || size < least) {
			least = size
		}
	}
	if least == 0 {
		return 0, errTooMuch
	}
	return least, nil
}

var errTooMuch = fmt.Errorf("the content needs more than the %d bytes that a FAT32 image can have", int64(maxSectors)*sectorSize)

// inUnits rounds a size up to whole units.
func inUnits(size int64) int64 { return (size + sizeUnit - 1) / sizeUnit * sizeUnit }

// chooseAuto finds the smallest size that holds everything and leaves some
// bytes free.
func (p *Planner) chooseAuto(free int64) (*layout, error) {
	var above int64 // sizes up to this have smaller clusters
	for _, c := range clusterSizes {
		need := max(p.clusters(c.cluster)+(free+c.cluster-1)/c.cluster, minClusters)
		l := layoutOf(need, c.cluster)
		size := max(inUnits(l.sectors()*sectorSize), above+sizeUnit)
		if need <= maxClusters && size <= c.upTo {
			l = within(size, c.cluster)
			return &l, nil
		}
		above = c.upTo / sizeUnit * sizeUnit
	}
	return nil, errTooMuch
}

// clusters counts the clusters that the content takes.
func (p *Planner) clusters(size int64) int64 {
	var n int64
	for _, d := range p.dirs {
		n += d.clusters(size)
		for i := range d.files {
			n += d.files[i].clusters(size)
		}
	}
	return n
}

func (d *directory) clusters(size int64) int64 {
	return max(1, (int64(d.slots)*recordSize+size-1)/size)
}

// clusters of a directory's name are those of the directory.
func (f *file) clusters(size int64) int64 {
	return (f.node.size + size - 1) / size
}

// place gives everything its clusters, one run after the other, and returns
// the last of each run, in order.
func (p *Planner) place(l *layout) (ends []uint32) {
	next := uint32(rootCluster)
	take := func(n int64) uint32 {
		if n == 0 {
			return 0
		}
		start := next
		next += uint32(n)
		ends = append(ends, next-1)
		return start
	}
	for _, d := range p.dirs {
		d.start = take(d.clusters(l.clusterSize))
		if d.parent != nil {
			d.parent.files[d.at].start = d.start
		}
	}
	for _, d := range p.dirs {
		for i := range d.files {
			if f := &d.files[i]; !f.node.isDir() {
				f.start = take(f.clusters(l.clusterSize))
			}
		}
	}
	return ends
}
