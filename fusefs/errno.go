package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// stale answers a request for a node that the kernel should have forgotten.
const stale = fuse.Status(syscall.ESTALE)

// status turns an error of the tree into an errno. The kernel passes on only
// the number, so what isn't an ordinary answer is logged with its cause.
func (f *filesystem) status(op string, id uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	errno := syscall.EIO
	errors.As(err, &errno)
	switch errno {
	case syscall.ENOSYS:
		// To the kernel this would say that we never implement op.
		errno = syscall.EOPNOTSUPP
	case syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.EBADF, syscall.EUCLEAN:
		f.log.Error("request failed", "op", op, "node", id, "err", err)
	}
	return fuse.Status(errno)
}
