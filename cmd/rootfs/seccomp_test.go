package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program can be run under a supervisor that sees its system calls before the
// kernel does and may answer in its place: seccomp_unotify(2). So every host
// call of a daemon can be made to fail, without a seam in the daemon.

// Structures and commands of linux/seccomp.h.
type (
	seccompData struct {
		nr                 int32
		arch               uint32
		instructionPointer uint64
		args               [6]uint64
	}
	seccompNotif struct {
		id         uint64
		pid, flags uint32
		data       seccompData
	}
	seccompResponse struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
)

const (
	seccompReceive  = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	seccompSend     = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	seccompContinue = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// supervised is the program "supervised": it runs the rest of its arguments
// with the calls of [hostCalls] reported through the socket that it has as
// descriptor 3.
func supervised() {
	if err := superviseAndExec(); err != nil {
		fmt.Fprintln(os.Stderr, "supervised:", err)
	}
}

func superviseAndExec() error {
	runtime.LockOSThread() // the filter is a thread's, until exec
	path, err := exec.LookPath(os.Args[1])
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := hostCallFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return err
	}
	return unix.Exec(path, os.Args[1:], os.Environ())
}

// hostCallFilter reports the calls of [hostCalls] and allows all others.
func hostCallFilter() []unix.SockFilter {
	calls := changingCalls
	if allFaults() {
		calls = slices.Concat(calls, openingCalls, readingCalls)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the call's number
	for _, nr := range calls {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(nr), Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	}
	return append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
}

// The calls of a daemon on its host's filesystem. write(2) is not among them:
// answers to the kernel go through it.
var (
	openingCalls  = []uintptr{unix.SYS_OPENAT, unix.SYS_OPENAT2}
	changingCalls = []uintptr{
		unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT,
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_FSETXATTR, unix.SYS_SETXATTR, unix.SYS_LSETXATTR,
		unix.SYS_FREMOVEXATTR, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_UTIMENSAT, unix.SYS_FTRUNCATE,
		unix.SYS_FALLOCATE, unix.SYS_PWRITE64, unix.SYS_COPY_FILE_RANGE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS,
	}
	readingCalls = []uintptr{
		unix.SYS_NEWFSTATAT, unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_GETDENTS64, unix.SYS_PREAD64, unix.SYS_READLINKAT, unix.SYS_LSEEK,
		unix.SYS_FGETXATTR, unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_FLISTXATTR, unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_LISTXATTRAT,
	}
)

// supervisor answers for the kernel.
type supervisor struct {
	fd int

	mu    sync.Mutex
	calls []uintptr // which are counted
	left  int       // of them, until one fails; 0 for none
	errno unix.Errno
	hit   uintptr // the one that failed; 0 for none yet
}

// superviseCommand makes cmd run under a supervisor, which is there when start
// has returned.
func superviseCommand(cmd *exec.Cmd) (start func() (*supervisor, error), err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "supervised")
	self, err := exec.LookPath("supervised")
	if err != nil {
		return nil, err
	}
	cmd.Args = append([]string{"supervised"}, cmd.Args...)
	cmd.Path = self
	cmd.ExtraFiles = []*os.File{theirs}
	return func() (*supervisor, error) {
		defer unix.Close(pair[0]) //nolint:errcheck // only read
		if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
			return nil, err
		}
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return nil, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 {
			return nil, fmt.Errorf("no listener (%d messages): %w", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return nil, err
		}
		s := &supervisor{fd: fds[0]}
		go s.run()
		return s, nil
	}, nil
}

// canSupervise tells whether this machine lets a program be supervised.
func canSupervise() bool {
	cmd := exec.Command("true")
	start, err := superviseCommand(cmd)
	if err != nil {
		return false
	}
	_, err = start()
	return err == nil && cmd.Wait() == nil
}

// run answers until the program ends.
func (s *supervisor) run() {
	defer unix.Close(s.fd) //nolint:errcheck // nothing was written
	for s.wait() {
		var n seccompNotif
		if err := s.ioctl(seccompReceive, unsafe.Pointer(&n)); err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
				continue // a signal came, and the call comes again
			}
			return
		}
		r := seccompResponse{id: n.id, flags: seccompContinue}
		failed := s.fails(uintptr(n.data.nr))
		if failed {
			r.flags, r.error = 0, -int32(s.errno)
		}
		if err := s.ioctl(seccompSend, unsafe.Pointer(&r)); failed && errors.Is(err, unix.ENOENT) {
			s.again()
		}
	}
}

// wait returns false when the program has ended: to receive then says what it
// says of a call that a signal has ended, for ever.
func (s *supervisor) wait() bool {
	for {
		ready := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); !errors.Is(err, unix.EINTR) {
			return err == nil && ready[0].Revents&unix.POLLHUP == 0
		}
	}
}

func (s *supervisor) ioctl(command uintptr, p unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), command, uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

// failAt makes the n-th of the calls from now on fail.
func (s *supervisor) failAt(n int, calls []uintptr, errno unix.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.calls, s.errno, s.hit = n, calls, errno, 0
}

// failed returns the call that failed, 0 for none, and lets all others be.
func (s *supervisor) failed() uintptr {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = 0
	return s.hit
}

func (s *supervisor) fails(nr uintptr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 || !slices.Contains(s.calls, nr) {
		return false
	}
	s.left--
	if s.left > 0 {
		return false
	}
	s.hit = nr
	return true
}

// again makes the next call fail in place of one that was interrupted.
func (s *supervisor) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.hit = 1, 0
}
