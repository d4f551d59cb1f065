package plan

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Where the host's filesystem can share blocks between files (XFS, btrfs), the
// whole blocks of long files are shared with the image and not copied. What is
// written beside them, around the page cache or not, lies in other blocks.

const (
	// cloneUnit is what offsets and lengths of a clone are multiples of: the
	// block of most filesystems.
	cloneUnit = 4096

	// cloneMin is the shortest segment that is worth a request of its own (20
	// to 50 µs, whatever the length) rather than a place in a batch. On two
	// busy processors, 64 KiB and 256 KiB couldn't be told from it.
	cloneMin = 128 << 10
)

// canClone tells whether the filesystem of f, which holds nothing yet, shares
// blocks of cloneUnit, by sharing a hole. So where it doesn't, as on ext4, a
// whole image costs one request that fails.
func canClone(f *os.File, size int64) bool {
	return size >= 2*cloneUnit && clone(f, cloneUnit, int(f.Fd()), 0, cloneUnit) == nil
}

// clone makes a range of the image share a file's blocks.
func clone(image *os.File, off int64, fd int, srcOff, length int64) error {
	return unix.IoctlFileCloneRange(int(image.Fd()), &unix.FileCloneRange{
		Src_fd:      int64(fd),
		Src_offset:  uint64(srcOff),
		Src_length:  uint64(length),
		Dest_offset: uint64(off),
	})
}

// clonable tells whether s may be worth sharing.
func (w *writer) clonable(s *segment) bool {
	if !w.clones || s.length < cloneMin || s.off%cloneUnit != 0 || s.srcOff%cloneUnit != 0 {
		return false
	}
	_, ok := s.src.(overlay.Content)
	return ok
}

// clone shares the whole blocks of s and returns how many bytes they are.
// After any failure, such as a source on another filesystem, that is 0:
// copying can do without, or meets what is wrong too and tells it.
func (w *writer) clone(s *segment) int64 {
	if !w.clonable(s) {
		return 0
	}
	f, err := s.src.(overlay.Content).Open()
	if err != nil {
		return 0
	}
	length := s.length &^ (cloneUnit - 1)
	err = clone(w.file, s.off, f.Fd(), s.srcOff, length)
	if f.Close() != nil || err != nil {
		return 0
	}
	return length
}
