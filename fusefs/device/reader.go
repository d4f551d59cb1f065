package device

import (
	"encoding/binary"
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// moment is how long a worker that has come to the end of its work asks
	// again and again for the next request, before it sleeps: falling asleep and
	// being woken takes longer than most programs take between two requests.
	moment = 50 * time.Microsecond

	// mostTrust is how many times in a row the next request must have come
	// later until a worker sleeps at once.
	mostTrust = 4

	// nap is how long a worker sleeps before Go's scheduler is told.
	nap = 100 * time.Millisecond

	// stolen is how long it takes to know that another program wanted the
	// processor, and consideration how long it is then left to the others.
	stolen        = 100 * time.Microsecond
	consideration = 100 * time.Millisecond
)

// lead reads requests and handles them until another has the right to read.
// The mount is gone if it returns an error.
func (w *worker) lead() error {
	for inARow := 0; ; {
		n, err := w.read()
		if errors.Is(err, unix.EAGAIN) {
			inARow = 0
			if n, err = w.wait(); errors.Is(err, errRetired) {
				return nil
			}
		}
		if errors.Is(err, unix.ENOENT) { // who asked was interrupted
			continue
		}
		if err != nil {
			return err
		}
		answered, may := w.handle(n)
		if !may {
			return nil
		}
		if !answered { // FORGET comes in crowds, which one can deal with
			continue
		}
		if inARow++; inARow == crowd {
			inARow = 0
			w.device.share()
		}
	}
}

// wait returns the size of the next request, or errRetired if the worker has
// given up its right to read, as another waits already.
func (w *worker) wait() (n int, err error) {
	began := time.Now()
	if w.trust > 0 && began.After(w.considerate) {
		if n, err = w.ask(began); !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
	if !w.device.waiting.CompareAndSwap(false, true) {
		w.device.retire()
		return 0, errRetired
	}
	n, err = w.await()
	w.device.waiting.Store(false)
	if time.Since(began) < 2*moment { // the half of it for being woken
		w.trust = mostTrust
	} else if w.trust > 0 {
		w.trust--
	}
	return n, err
}

// ask reads until there is a request, for the moment that began just now. It
// yields the processor in between: when all are in use, waiting is better done
// asleep.
func (w *worker) ask(began time.Time) (n int, err error) {
	for now := began; now.Sub(began) < moment; {
		if n, err = w.read(); !errors.Is(err, unix.EAGAIN) {
			w.trust = mostTrust
			return n, err
		}
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		last := now
		if now = time.Now(); now.Sub(last) > stolen {
			w.considerate = now.Add(consideration)
			break
		}
	}
	return 0, unix.EAGAIN
}

var errRetired = errors.New("another waits")

// await sleeps until there is a request, and returns its size.
//
// At first it sleeps without Go's scheduler knowing. From a goroutine in
// a system call that it knows of it takes the processor back after 20 µs, by a
// monitor thread that for this wakes up as often, and gives it one again
// afterwards: in a compilation that was half of the daemon's processor time.
// When the scheduler needs the goroutine, its signal ends the system call.
func (w *worker) await() (n int, err error) {
	began := time.Now()
	for {
		ready := unix.PollFd{Fd: int32(w.device.fd), Events: unix.POLLIN}
		if left := nap - time.Since(began); left > 0 {
			limit := unix.NsecToTimespec(int64(left))
			_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&ready)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
		} else {
			w.forget()
			if _, err := unix.Poll([]unix.PollFd{ready}, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
		}
		if n, err = w.read(); !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
}

// read returns the size of the request that it has read, or EAGAIN, or ENODEV
// when the mount is gone.
func (w *worker) read() (n int, err error) {
	for {
		n, err = unix.Read(w.device.fd, w.in)
		if n == 0 && err == nil { // the other end of a socket is gone
			return 0, unix.ENODEV
		}
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// handle answers a request of n bytes. The worker may not read any more if
// another has got its right meanwhile.
func (w *worker) handle(n int) (answered, may bool) {
	may = !takesTime(w.in[:n]) || !w.device.passOn()
	if may {
		w.last++
		w.task.Store(w.last)
		w.device.keepWatch()
	}
	size, status := w.device.handler.HandleRequest([][]byte{w.in[:n]}, [][]byte{w.out})
	if !status.Ok() {
		w.device.log.Error("a request can't be decoded", "status", status)
		size = refusal(w.in[:n], w.out)
	}
	if size > 0 {
		w.answer(size)
	}
	return size > 0, may && w.task.CompareAndSwap(w.last, 0)
}

// takesTime returns whether a request is of a kind that waits for the disk.
func takesTime(request []byte) bool {
	if len(request) < headerSize {
		return false
	}
	switch binary.NativeEndian.Uint32(request[4:]) {
	case opFsync, opFsyncdir, opFallocate, opCopyFileRange, opSyncfs, opCopyFileRange64:
		return true
	}
	return false
}

// Codes of enum fuse_opcode in include/uapi/linux/fuse.h.
const (
	opFsync           = 20
	opFsyncdir        = 30
	opFallocate       = 43
	opCopyFileRange   = 47
	opSyncfs          = 50
	opCopyFileRange64 = 53
)

// refusal makes the answer to a request that can't be read, and returns its size:
// 0 if it can't even be answered. (struct fuse_out_header of
// include/uapi/linux/fuse.h: length, negative errno, and which request.)
func refusal(in, out []byte) int {
	if len(in) < headerSize {
		return 0
	}
	code := -int32(unix.EIO)
	binary.NativeEndian.PutUint32(out, beforeRead)
	binary.NativeEndian.PutUint32(out[4:], uint32(code))
	copy(out[8:beforeRead], in[8:])
	return beforeRead
}

// answer writes the answer of that size.
func (w *worker) answer(size int) {
	_, err := unix.Write(w.device.fd, w.out[:size])
	switch {
	case err == nil,
		errors.Is(err, unix.ENOENT), // who asked was interrupted
		errors.Is(err, unix.ENODEV): // unmounted
	default:
		w.device.log.Error("answer on the FUSE device", "error", err)
	}
}
