package device

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
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

	// stolen is how long another program must have had the processor for a worker
	// to know that it is wanted, and consideration how long it is then left to the
	// others. A scheduler gives more than a millisecond at a time; what the kernel
	// or a host below it take for themselves is shorter.
	stolen        = 800 * time.Microsecond
	consideration = 100 * time.Millisecond

	// inVain is how many times a worker may be woken for requests that another
	// has got until it leaves them to it.
	inVain = 3

	// longRun is how long a worker handles requests until it lets Go's scheduler
	// have another goroutine run. That would stop it by a signal after 10 ms, and its
	// monitor thread, which finds that, then looks every 20 µs for some time.
	longRun = 8 * time.Millisecond

	// retryAfter is when a worker reads again after an error that isn't the
	// mount's end: ENOMEM.
	retryAfter = 100 * time.Millisecond
)

// nap is how long a worker sleeps before Go's scheduler is told.
var nap = napWith(os.Getenv("GODEBUG"))

// napWith returns no time where the scheduler may not send signals (package
// runtime, GODEBUG): it would wait for the worker whenever it stops the world.
func napWith(debug string) time.Duration {
	if strings.Contains(debug, "asyncpreemptoff=1") {
		return 0
	}
	return 100 * time.Millisecond
}

// lead reads requests and handles them until another has the right to read. It
// returns false when the mount is gone.
func (w *worker) lead() bool {
	for w.inARow = 0; ; {
		n, err := w.read()
		if errors.Is(err, unix.EAGAIN) {
			w.inARow = 0
			if n, err = w.wait(); errors.Is(err, errRetired) {
				return true
			}
		}
		switch {
		case err == nil:
			w.inARow++
			if !w.handle(n) {
				return true
			}
			w.makeRoom()
		case errors.Is(err, unix.ENOENT): // who asked was interrupted
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EPERM):
			return false
		default:
			w.device.log.Error("read from the FUSE device", "error", err)
			time.Sleep(retryAfter)
		}
	}
}

// makeRoom lets another goroutine run when it is time.
func (w *worker) makeRoom() {
	if now := time.Now(); now.Sub(w.madeRoom) > longRun {
		runtime.Gosched()
		w.madeRoom = now
	}
}

// wait returns the size of the next request, or errRetired if the worker has
// given up its right to read, as another waits already.
func (w *worker) wait() (n int, err error) {
	if w.device.idler != nil && !w.watched(w.device.idler.Meanwhile) {
		return 0, errRetired
	}
	began := time.Now()
	if w.trust > 0 && began.After(w.considerate) {
		if n, err = w.ask(began); !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
	for !w.device.waiting.CompareAndSwap(false, true) {
		if w.device.retire() {
			return 0, errRetired
		}
	}
	n, err = w.await()
	w.device.waiting.Store(false)
	if errors.Is(err, errRetired) {
		return 0, err
	}
	if time.Since(began) < 2*moment { // the half of it for being woken
		w.trust = mostTrust
	} else if w.trust > 0 {
		w.trust--
	}
	return n, err
}

var errRetired = errors.New("another reads")

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
		}
	}
	return 0, unix.EAGAIN
}

// await sleeps until there is a request, and returns its size, or errRetired.
//
// At first it sleeps without Go's scheduler knowing. From a goroutine in a system
// call that it knows of it takes the processor back when it has waited for long,
// and gives it one again afterwards; for this a monitor thread wakes up every
// 20 µs, which in a compilation took half of the daemon's processor time. When
// the scheduler needs the goroutine, its signal ends the system call.
func (w *worker) await() (n int, err error) {
	began := time.Now()
	for woken := 0; ; woken++ {
		var ready bool
		if left := nap - time.Since(began); left > 0 {
			ready = w.sleep(left)
		} else {
			w.shrink()
			fds := []unix.PollFd{{Fd: int32(w.device.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
			ready = fds[0].Revents != 0
		}
		if n, err = w.read(); !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if !ready { // the scheduler's signal
			woken--
		} else if woken >= inVain && w.device.retire() {
			return 0, errRetired
		}
	}
}

// sleep returns whether there was a request within that time.
func (w *worker) sleep(limit time.Duration) bool {
	fd := unix.PollFd{Fd: int32(w.device.fd), Events: unix.POLLIN}
	timeout := unix.NsecToTimespec(int64(limit))
	n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fd)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	return n == 1
}

// read returns the size of the request that it has read, or EAGAIN, or ENODEV
// when the mount is gone.
func (w *worker) read() (n int, err error) {
	for {
		n, err = unix.Read(w.device.fd, w.in)
		if n == 0 && err == nil { // a socket whose other end is gone, in a test
			return 0, unix.ENODEV
		}
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// handle answers a request of n bytes. It returns false if another has got the
// right to read meanwhile.
func (w *worker) handle(n int) bool {
	may := !takesTime(w.in[:n]) || !w.device.passOn()
	began := time.Now()
	if may {
		w.begin()
	}
	size, status := w.device.handler.HandleRequest([][]byte{w.in[:n]}, [][]byte{w.out})
	if !status.Ok() { // go-fuse has logged why
		size = refusal(w.in[:n], w.out)
	}
	// What is there before the answer comes from somebody else.
	if (w.inARow >= crowd || time.Since(began) > slow) && !w.device.waiting.Load() && w.sleep(0) {
		w.inARow = 0
		w.device.share()
	}
	if size > 0 {
		w.answer(size)
	}
	return may && w.finish()
}

// watched does something that no request asks for. It returns false if another has
// got the right to read meanwhile.
func (w *worker) watched(do func()) bool {
	w.begin()
	do()
	return w.finish()
}

// begin has others relieve the worker if it isn't done soon with what it does now.
func (w *worker) begin() {
	w.last++
	w.task.Store(w.last)
	w.device.keepWatch()
}

// finish returns false if another has got the right to read meanwhile.
func (w *worker) finish() bool { return w.task.CompareAndSwap(w.last, 0) }

// takesTime returns whether a request is of a kind that waits for the disk.
func takesTime(request []byte) bool {
	if len(request) < headerSize {
		return false
	}
	switch binary.NativeEndian.Uint32(request[4:]) {
	case opFsync, opFsyncdir, opFallocate, opCopyFileRange:
		return true
	}
	return false
}

// Codes of enum fuse_opcode in include/uapi/linux/fuse.h.
const (
	opFsync         = 20
	opFsyncdir      = 30
	opFallocate     = 43
	opCopyFileRange = 47
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
		errors.Is(err, unix.EPERM):  // unmounted
	default:
		w.device.log.Error("answer on the FUSE device", "error", err)
	}
}
