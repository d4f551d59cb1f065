// Package ext4 plans ext4 filesystems: it is given the entries of a tree and
// returns a [plan.Plan] of an image that holds them, without mounting and
// without root.
//
// The format is documented in the Linux kernel (Documentation/filesystems/ext4)
// and in e2fsprogs (lib/ext2fs/ext2_fs.h). What is written stays within what
// both Linux and DragonOS take:
//
//   - blocks of 4096 bytes, inodes of 256, group descriptors of 64 (64bit);
//   - extents, packed metadata (flex_bg), checksums on all metadata;
//   - linear directories (no dir_index), bitmaps that are always valid (no
//     uninit_bg);
//   - extended attributes in a block of each inode's own, except those of a
//     short symlink, which are in the inode.
//
// Inode and block numbers, times and identifiers follow from the entries and
// the options alone, so the same input gives the same bytes. A checkout's
// ctime can't be reproduced, so an inode's four times (access, change,
// modification, creation) are all the entry's Mtime.
//
// Entries come first, by [Planner.Add]; then everything gets its place: inodes
// in the order of arrival, blocks one after the other, directories before
// files. A planner is for one goroutine.
package ext4

import (
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// Units of the format, in bytes unless a name says otherwise.
const (
	blockSize      = 4096
	inodeSize      = 256
	descSize       = 64
	blocksPerGroup = 8 * blockSize // what one block of bitmap covers
	inodesPerBlock = blockSize / inodeSize
	descsPerBlock  = blockSize / descSize

	// maxBlocks keeps block numbers in 32 bits, the reach of the resize inode.
	maxBlocks = 1<<32 - 1

	defaultFree = 1 << 30
	labelSize   = 16
)

// Options are what an image depends on besides its entries.
type Options struct {
	// Size is the image's length in bytes; 0 is automatic: as much as the
	// content needs, and Free. What only fits a given size with a smaller
	// journal than is usual gets that.
	Size int64

	// Free is how many bytes an image of automatic size has left for new
	// files; 0 is 1 GiB.
	Free int64

	// Label is the volume's name, at most 16 bytes.
	Label string

	// UUID and HashSeed identify the filesystem. Zero: derived from the
	// entries (names and attributes, not the bytes of files).
	UUID, HashSeed [16]byte

	// NoJournal leaves the journal out. Images of less than 8 MiB never have
	// one.
	NoJournal bool

	// Created is the time that the filesystem says it was made.
	Created overlay.Time
}

// Planner collects the entries of a tree and plans an image of them.
type Planner struct {
	opts    Options
	inodes  inodeTable
	dirs    map[string]*directory // by path
	links   map[uint64]*hardLink  // by the entries' Ino
	root    *directory
	digest  hash.Hash
	scratch []byte
	planned bool
}

// New returns a planner of one image. It is an error if an option is out of
// range.
func New(opts Options) (*Planner, error) {
	switch {
	case len(opts.Label) > labelSize:
		return nil, fmt.Errorf("label %q has %d bytes, ext4 takes %d", opts.Label, len(opts.Label), labelSize)
	case opts.Size < 0 || opts.Size > maxBlocks*blockSize:
		return nil, fmt.Errorf("image size %d is not between 1 and %d bytes", opts.Size, int64(maxBlocks)*blockSize)
	case opts.Free < 0:
		return nil, fmt.Errorf("free space of %d bytes is negative", opts.Free)
	}
	if opts.Free == 0 {
		opts.Free = defaultFree
	}
	p := &Planner{
		opts:   opts,
		dirs:   make(map[string]*directory),
		links:  make(map[uint64]*hardLink),
		digest: sha256.New(),
	}
	for range firstFreeInode {
		p.inodes.add() // the reserved ones and lost+found
	}
	return p, nil
}

// Plan places everything and returns the image. It is an error if the content
// doesn't fit the size that was asked for; the message tells the size that it
// needs. A planner plans once.
func (p *Planner) Plan() (*plan.Plan, error) {
	if p.root == nil {
		return nil, fmt.Errorf("plan an image: no entries")
	}
	if p.planned {
		return nil, fmt.Errorf("plan an image: already planned")
	}
	p.planned = true
	if err := p.addLostFound(); err != nil {
		return nil, err
	}
	l, err := p.place()
	if err != nil {
		return nil, err
	}
	return p.write(l)
}

// identifiers returns the UUID and the hash seed.
func (p *Planner) identifiers() (uuid, seed [16]byte) {
	uuid, seed = p.opts.UUID, p.opts.HashSeed
	if uuid == [16]byte{} {
		copy(uuid[:], p.digest.Sum(nil))
		uuid[6] = uuid[6]&0x0f | 0x80 // version 8, RFC 9562 §5.8: custom
		uuid[8] = uuid[8]&0x3f | 0x80
	}
	if seed == [16]byte{} {
		sum := sha256.Sum256(append([]byte("hash seed "), uuid[:]...))
		copy(seed[:], sum[:])
	}
	return uuid, seed
}
