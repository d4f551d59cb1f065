package ext4

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Reader reads an ext2, ext3 or ext4 filesystem without mounting it: those
// planned here and those of mke2fs, with any features but the ones that
// [NewReader] refuses. It reads what it is asked for and keeps group
// descriptors only.
//
// Everything on the disk is taken for possibly wrong. Numbers are checked
// against the filesystem before they are used, metadata against its checksums
// where the filesystem has them; what doesn't hold is an error that says where
// it is. A journal that was never replayed is not looked at.
//
// A Reader is for one goroutine.
type Reader struct {
	src    io.ReaderAt
	super  super
	seed   checksum // of all checksums
	groups map[uint32]groupDesc
}

// NewReader opens the filesystem that begins at src's beginning and may have
// size bytes. It is an error if there is none, if it is cut off, or if it
// has features that can't be read: encryption, compression, an external
// journal's device.
func NewReader(src io.ReaderAt, size int64) (*Reader, error) {
	b := make([]byte, superSize)
	if err := readFull(src, b, superOffset); err != nil {
		return nil, fmt.Errorf("ext4 superblock: %w", err)
	}
	r := &Reader{src: src, groups: make(map[uint32]groupDesc)}
	if err := r.super.parse(b); err != nil {
		return nil, fmt.Errorf("ext4 superblock: %w", err)
	}
	if need := r.super.blocks * r.super.blockSize; uint64(size) < need {
		return nil, fmt.Errorf("ext4: the filesystem has %d bytes, but there are only %d: it is cut off", need, size)
	}
	r.seed = r.super.seed()
	return r, nil
}

// Format names the kind of filesystem: ext2, ext3 or ext4.
func (r *Reader) Format() string {
	switch s := &r.super; {
	case s.incompat&^(incompatFiletype|incompatRecover|incompatMetaBG) != 0 || s.roCompat&^0x7 != 0:
		return "ext4"
	case s.compat&compatJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// Root returns the number of the root directory's inode.
func (r *Reader) Root() uint64 { return rootInode }

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

// block reads a block, whose number must lie in the filesystem.
func (r *Reader) block(number uint64) ([]byte, error) {
	if err := r.inRange(number, 1); err != nil {
		return nil, err
	}
	b := make([]byte, r.super.blockSize)
	return b, readFull(r.src, b, int64(number*r.super.blockSize))
}

// inRange is an error unless count blocks from first on lie in the filesystem
// and behind its first data block.
func (r *Reader) inRange(first, count uint64) error {
	s := &r.super
	if first < uint64(s.firstBlock) || first >= s.blocks || count > s.blocks-first {
		return fmt.Errorf("block %d is outside the filesystem", first+count-1)
	}
	return nil
}

// Features of filesystems made elsewhere (EXT4_FEATURE_*).
const (
	compatSparseSuper2 = 0x200
	compatOrphanFile   = 0x1000

	incompatFiletype   = 0x2
	incompatRecover    = 0x4
	incompatMetaBG     = 0x10
	incompatExtents    = 0x40
	incompat64bit      = 0x80
	incompatMMP        = 0x100
	incompatFlexBG     = 0x200
	incompatEAInode    = 0x400
	incompatSumSeed    = 0x2000
	incompatLargeDir   = 0x4000
	incompatInlineData = 0x8000
	incompatCasefold   = 0x20000

	roCompatSparseSuper  = 0x1
	roCompatGroupSum     = 0x10
	roCompatDirNlink     = 0x20
	roCompatBigalloc     = 0x200
	roCompatMetadataSum  = 0x400
	roCompatProject      = 0x2000
	roCompatSharedBlocks = 0x4000

	incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64bit |
		incompatMMP | incompatFlexBG | incompatEAInode | incompatSumSeed | incompatLargeDir |
		incompatInlineData | incompatCasefold
)

// incompatNames are the features that can't be read, by the names that mke2fs
// gives them.
var incompatNames = map[uint32]string{
	0x1: "compression", 0x8: "journal_dev", 0x1000: "dirdata", 0x10000: "encrypt",
}

// refused names the features that keep a filesystem from being read.
func refused(incompat uint32) error {
	var names []string
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if incompat&^incompatKnown&bit == 0 {
			continue
		}
		name := incompatNames[bit]
		if name == "" {
			name = fmt.Sprintf("%#x", bit)
		}
		names = append(names, name)
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("can't read filesystems with the features: %s", strings.Join(names, ", "))
}
