package export

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/DragonOS-Community/rootfs/export/ext4"
	"github.com/DragonOS-Community/rootfs/export/fat32"
	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// The filesystems of a disk image.
const (
	filesystemExt4 = "ext4"
	filesystemVFAT = "vfat"
)

// planner plans a filesystem of the entries that it is given.
type planner interface {
	Add(e *overlay.Entry) error
	Plan() (*plan.Plan, error)
}

// newPlanner returns the planner of the filesystem that is asked for.
func newPlanner(r *Request) (planner, error) {
	size, err := ParseSize(r.Size)
	if err != nil {
		return nil, err
	}
	free, err := ParseSize(r.Free)
	if err != nil {
		return nil, err
	}
	if table := PartitionTable(r.Partition); size > 0 && table != PartitionNone {
		if size -= table.Overhead(); size < sectorSize {
			return nil, fmt.Errorf("size %s: too small for a %s partition table", r.Size, r.Partition)
		}
		size -= size % sectorSize // 100MB, for one, isn't whole sectors
	}
	if PartitionTable(r.Partition) == PartitionGPT {
		r.Log.Warn("DragonOS reads a GPT disk as one partition of type 0xEE and won't find the filesystem; use --partition mbr for it")
	}
	switch r.Filesystem {
	case filesystemExt4:
		return newExt4(r, size, free)
	case filesystemVFAT:
		return newFAT(r, size, free)
	}
	return nil, fmt.Errorf("filesystem %q: ext4 and vfat are known", r.Filesystem)
}

func newExt4(r *Request, size, free int64) (planner, error) {
	opts := ext4.Options{Size: size, Free: free, Label: r.Label}
	if r.UUID != "" {
		b, err := parseID(r.UUID, len(opts.UUID), "01234567-89ab-cdef-0123-456789abcdef")
		if err != nil {
			return nil, err
		}
		copy(opts.UUID[:], b)
	}
	if r.Epoch != nil {
		opts.Created = *r.Epoch
	}
	return ext4.New(opts)
}

func newFAT(r *Request, size, free int64) (planner, error) {
	// To be strict is to take no losses, since each would be a warning.
	opts := fat32.Options{Size: size, Free: free, Label: r.Label, Lossy: r.Lossy && !r.Strict}
	if r.UUID != "" {
		b, err := parseID(r.UUID, 4, "0123-4567")
		if err != nil {
			return nil, err
		}
		opts.VolumeID = binary.BigEndian.Uint32(b)
	}
	if PartitionTable(r.Partition) != PartitionNone {
		opts.Hidden = partitionStart / sectorSize
	}
	p, err := fat32.New(opts)
	return fatPlanner{p, r.Log}, err
}

// parseID reads an identifier of some bytes, as the example is written.
func parseID(s string, size int, example string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("uuid %q: write %d hexadecimal digits, as in %s", s, 2*size, example)
	}
	return b, nil
}

// fatPlanner lists what FAT can't hold.
type fatPlanner struct {
	*fat32.Planner
	log *slog.Logger
}

func (p fatPlanner) Plan() (*plan.Plan, error) {
	fs, err := p.Planner.Plan()
	var losses *fat32.LossError
	level := slog.LevelWarn
	switch {
	case errors.As(err, &losses):
		level = slog.LevelError
		err = fmt.Errorf("FAT32 can't hold the %d things above; use --lossy to export without them, or --fs ext4", len(losses.Losses))
	case err != nil:
		return nil, err
	}
	for _, l := range p.Losses() {
		p.log.Log(context.Background(), level, l.String())
	}
	return fs, err
}

// idOf reads 16 bytes that tell a filesystem from others: the UUID of ext4
// (s_uuid, at 0x68 of the superblock at 1024), the volume's identifier and
// label of FAT (fatgen103, BS_VolID and BS_VolLab).
func idOf(fs *plan.Plan, filesystem string) (id [16]byte, err error) {
	off := int64(1024 + 0x68)
	if filesystem == filesystemVFAT {
		off = 67
	}
	_, err = fs.ReadAt(id[:], off)
	return id, err
}
