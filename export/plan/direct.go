package plan

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A whole image goes to the disk before its writer returns, so its way through
// the page cache is a copy and a page fault for nothing: large batches are
// written around it, where the filesystem can.

const (
	// directAlign is what addresses, offsets and lengths are multiples of:
	// open(2), O_DIRECT; no disk in use has larger logical blocks.
	directAlign = 4096

	// directMin is the least that is worth a request of its own.
	directMin = 64 << 10

	// hugePage is the size of a huge page on most machines. The kernel aligns
	// a mapping to it only if it is some of them long.
	hugePage = 2 << 20
)

// openDirect opens f once more, to write around the page cache; nil where
// that can't be done.
func openDirect(f *os.File) *os.File {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// newBatches returns an aligned buffer for each copier, for a batch of size
// bytes and what its last block lacks, and what frees them all. They are one
// piece of memory, so that those of a small image are one huge page: its 100
// small ones would take longer to map than to fill.
func newBatches(size int64) (bufs [copiers][]byte, free func() error, err error) {
	each := int(size) + directAlign
	length := (each*copiers + hugePage - 1) &^ (hugePage - 1)
	all, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return bufs, nil, fmt.Errorf("memory for %d batches of %d bytes: %w", copiers, size, err)
	}
	_ = unix.Madvise(all, unix.MADV_HUGEPAGE) // without them it goes as well
	for i := range bufs {
		bufs[i] = all[i*each:][:each]
	}
	return bufs, func() error { return unix.Munmap(all) }, nil
}

// write writes the first n bytes of buf to the image at off. What follows
// there up to limit is a hole, which zeros may fill.
func (w *writer) write(buf []byte, n int, off, limit int64) error {
	whole := (n + directAlign - 1) &^ (directAlign - 1)
	if w.direct == nil || n < directMin || off%directAlign != 0 || off+int64(whole) > limit {
		_, err := w.file.WriteAt(buf[:n], off)
		return err
	}
	clear(buf[n:whole])
	_, err := w.direct.WriteAt(buf[:whole], off)
	if errors.Is(err, unix.EINVAL) { // a filesystem that opens so and can't write so
		_, err = w.file.WriteAt(buf[:n], off)
	}
	return err
}
