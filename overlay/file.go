package overlay

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// File is a regular file of the host that is open for reading. It isn't an
// [os.File], since an export opens every file of a tree once: that costs two
// more system calls and a cleanup by the garbage collector, each time.
type File struct {
	fd   int
	name string
}

// NewFile makes a File of an open descriptor, which is the file's from now on.
// name is for messages.
func NewFile(fd int, name string) *File { return &File{fd, name} }

// Fd returns the descriptor, which is valid until Close.
func (f *File) Fd() int { return f.fd }

// Name names the file for messages.
func (f *File) Name() string { return f.name }

// ReadAt implements [io.ReaderAt].
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := preadFull(f.fd, p, off)
	if err != nil {
		return n, fmt.Errorf("read %s: %w", f.name, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Size returns how many bytes the file has now.
func (f *File) Size() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.name, err)
	}
	return st.Size, nil
}

// Close closes the descriptor. Nothing can be lost: the file was only read.
func (f *File) Close() error { return unix.Close(f.fd) }
