// Package fat32 plans FAT32 filesystems: it is given the entries of a tree and
// returns a [plan.Plan] of an image that holds them, without mounting and
// without root.
//
// The format is that of Microsoft's "FAT: General Overview of On-Disk Format"
// 1.03 (fatgen103), with long names (VFAT). FAT holds files and directories
// with a name, a size and a time, so the tree is flattened:
//
//   - A symlink becomes a copy of what it leads to, a file or a directory with
//     all that is in it, and each hard link a copy of the file. A target is
//     looked up in the tree: an absolute one begins at the tree's root.
//   - Owners and permissions are gone. A file without any write permission is
//     read-only, which is how Linux maps a mode; a directory never is.
//   - The modification time is UTC, from 1980 to 2107 and to 2 seconds, cut
//     off; the creation time, which has hundredths, is the same moment. FAT
//     has no time zones: a reader elsewhere takes it for local time.
//
// What can't be kept in this way is a [Loss]: names that FAT forbids or that
// differ only in case, files of 4 GiB and more, special files, links that lead
// nowhere or into themselves, owners, set-id bits and extended attributes.
// All of them are known before anything is written.
//
// The same entries and options give the same bytes. Entries come first, by
// [Planner.Add]; then everything gets its place, each in one run of clusters,
// directories before files. A planner is for one goroutine.
package fat32

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	sectorSize  = 512
	recordSize  = 32 // of a directory's records
	labelSize   = 11
	defaultFree = 1 << 30

	// maxSectors is what the boot sector's 32-bit field can count: 2 TiB.
	maxSectors = 1<<32 - 1

	// maxFileSize is what a record's 32-bit field can hold.
	maxFileSize = 1<<32 - 1
)

// Options are what an image depends on besides its entries.
type Options struct {
	// Size is the image's length in bytes; 0 is automatic: as much as the
	// content needs, and Free.
	Size int64

	// Free is how many bytes an image of automatic size has left for new
	// files; 0 is 1 GiB.
	Free int64

	// Label is the volume's name, at most 11 characters of those that short
	// names may have, and spaces. Small letters become capitals.
	Label string

	// VolumeID identifies the filesystem. Zero: derived from the entries
	// (names, sizes and times, not the bytes of files).
	VolumeID uint32

	// Hidden is how many 512-byte sectors of the disk come before the
	// filesystem: where its partition begins.
	Hidden uint32

	// Lossy leaves out what FAT can't hold; otherwise that is an error.
	Lossy bool
}

// Planner collects the entries of a tree and plans an image of them.
type Planner struct {
	opts    Options
	entries int
	unused  []node // for the next entries
	open    []openDir
	losses  []Loss
	digest  hash.Hash
	scratch []byte
	dirs    []*directory // of the image; the root is first
	planned bool
}

// New returns a planner of one image. It is an error if an option is out of
// range.
func New(opts Options) (*Planner, error) {
	switch {
	case opts.Size < 0 || opts.Size > maxSectors*sectorSize:
		return nil, fmt.Errorf("image size %d is not between 1 and %d bytes", opts.Size, int64(maxSectors)*sectorSize)
	case opts.Free < 0 || opts.Free > maxSectors*sectorSize:
		return nil, fmt.Errorf("free space %d is not between 0 and %d bytes", opts.Free, int64(maxSectors)*sectorSize)
	}
	if opts.Free == 0 {
		opts.Free = defaultFree
	}
	opts.Label = strings.ToUpper(opts.Label)
	if err := checkLabel(opts.Label); err != nil {
		return nil, err
	}
	return &Planner{opts: opts, digest: sha256.New()}, nil
}

// checkLabel takes what a short name may have, and spaces (fatgen103, "FAT
// Directory Structure", ATTR_VOLUME_ID).
func checkLabel(label string) error {
	if len(label) > labelSize {
		return fmt.Errorf("label %q has %d bytes, FAT takes %d", label, len(label), labelSize)
	}
	for i := range len(label) {
		if c := label[i]; !isShort(c) && (c != ' ' || i == 0) {
			return fmt.Errorf("label %q: FAT takes letters, digits, spaces and !#$%%&'()-@^_`{}~", label)
		}
	}
	return nil
}

// Plan places everything and returns the image. The error is a [*LossError] if
// FAT can't hold all of the tree, unless the losses are accepted, and a
// [*plan.SizeError] if the content doesn't fit the size that was asked for. A
// planner plans once.
func (p *Planner) Plan() (*plan.Plan, error) {
	if len(p.open) == 0 {
		return nil, errors.New("plan an image: no entries")
	}
	if p.planned {
		return nil, errors.New("plan an image: already planned")
	}
	p.planned = true
	if err := p.flatten(p.open[0].node); err != nil {
		return nil, err
	}
	if len(p.losses) > 0 && !p.opts.Lossy {
		return nil, &LossError{Losses: p.losses}
	}
	l, err := p.choose()
	if err != nil {
		return nil, err
	}
	return p.write(l, p.place(l))
}

// Losses returns what the image lacks, sorted by path, when it is planned.
func (p *Planner) Losses() []Loss { return p.losses }

// volumeID returns the volume's identifier.
func (p *Planner) volumeID() uint32 {
	if p.opts.VolumeID != 0 {
		return p.opts.VolumeID
	}
	sum := p.digest.Sum(nil)
	return max(le.Uint32(sum), 1)
}

var _ overlay.Content = (*node)(nil)
