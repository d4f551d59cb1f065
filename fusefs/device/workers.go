package device

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mostReaders is how many may read at a time.
	mostReaders = 16

	// A worker looks whether somebody waits behind the request that it handles
	// when that took longer than slow, or when the last crowd of them didn't let
	// it wait. Then it asks for another's help.
	slow  = 500 * time.Microsecond
	crowd = 8

	// spares is how many workers wait for the right to read; more end.
	spares = 2

	// heldUp is how long a worker may keep its right while it handles one
	// request, at most twice that: it may wait for a disk, or for somebody who
	// waits for the mount.
	heldUp = 20 * time.Millisecond
)

// worker reads and handles requests in a goroutine of its own.
type worker struct {
	device  *Device
	in, out []byte
	memory  []byte // of both
	turn    chan bool

	inARow      int       // requests that were there when it came for them
	trust       int       // in the next request's coming soon
	considerate time.Time // until when other programs need the processors more
	madeRoom    time.Time // when Go's scheduler last had it for others

	last uint64        // number of the last request
	task atomic.Uint64 // number of the one being handled with the right to read; or 0
	seen uint64        // what it was when relieve last looked; under Device.mu
}

// Sizes of include/uapi/linux/fuse.h: what precedes the data of a WRITE, and of
// an answer.
const (
	headerSize    = 40              // fuse_in_header
	beforeWritten = headerSize + 40 // and fuse_write_in
	beforeRead    = 16              // fuse_out_header
)

// newWorker returns a worker with room for the largest request and answer, in
// which data begins at a page, outside of Go's heap, which would grow by half
// with it. The kernel wants room for more than a page of whatever is no data.
func (d *Device) newWorker() (*worker, error) {
	page := unix.Getpagesize()
	size := page + d.maxWrite + page
	memory, err := unix.Mmap(-1, 0, 2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memory for requests: %w", err)
	}
	return &worker{
		device: d, memory: memory, turn: make(chan bool, 1),
		in: memory[page-beforeWritten : size], out: memory[size+page-beforeRead:],
	}, nil
}

func (w *worker) free() { _ = unix.Munmap(w.memory) }

// shrink gives back what the last requests and answers occupy.
func (w *worker) shrink() { _ = unix.Madvise(w.memory, unix.MADV_DONTNEED) }

// run is a worker's life.
func (w *worker) run() {
	d := w.device
	defer d.running.Done()
	defer w.free()
	for <-w.turn {
		if !w.lead() {
			d.end()
		}
		w.shrink()
		if !d.keep(w) {
			return
		}
	}
}

// keep has the worker wait for its turn, unless enough do.
func (d *Device) keep(w *worker) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || len(d.idle) >= spares {
		d.workers = slices.DeleteFunc(d.workers, func(other *worker) bool { return other == w })
		return false
	}
	d.idle = append(d.idle, w)
	return true
}

// spare returns a worker that waits for its turn, or nil. d.mu is held.
func (d *Device) spare() *worker {
	if n := len(d.idle); n > 0 {
		w := d.idle[n-1]
		d.idle = d.idle[:n-1]
		return w
	}
	w, err := d.newWorker()
	if err != nil {
		d.short.Do(func() { d.log.Error("requests wait for those before them", "error", err) })
		return nil
	}
	d.employ(w)
	return w
}

// employ has a new worker wait for its turn. d.mu is held.
func (d *Device) employ(w *worker) {
	d.workers = append(d.workers, w)
	d.running.Add(1)
	go w.run()
}

// share gives one more worker the right to read.
func (d *Device) share() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.readers >= mostReaders {
		return
	}
	if w := d.spare(); w != nil {
		d.readers++
		w.turn <- true
	}
}

// passOn gives a worker's right to read to another, if there can be one. Also
// when one waits for requests already: that may be about to leave them to this.
func (d *Device) passOn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return false
	}
	next := d.spare()
	if next == nil {
		return false
	}
	next.turn <- true
	return true
}

// retire gives up a worker's right to read, but for the last. Who waits has
// retired before it says that it no longer waits: whoever sees it wait and comes
// to retire as well finds that it is the last.
func (d *Device) retire() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.readers <= 1 {
		return false
	}
	d.readers--
	return true
}

// end sends home who waits, when the mount is gone.
func (d *Device) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, w := range d.idle {
		w.turn <- false
	}
	d.idle = nil
}

// keepWatch has relieve come, now that a request is being handled.
func (d *Device) keepWatch() {
	if !d.watching.Load() && d.watching.CompareAndSwap(false, true) {
		d.watch.Reset(heldUp)
	}
}

// relieve passes on the right of workers that are held up, and comes again as
// long as there are requests.
func (d *Device) relieve() {
	if d.look() {
		d.watch.Reset(heldUp)
		return
	}
	d.watching.Store(false)
	// Who has begun meanwhile may have taken the watch for kept.
	if d.look() {
		d.keepWatch()
	}
}

// look passes on the right of each worker that handles the same request as when
// it last looked, and returns whether any handles one.
func (d *Device) look() (busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.workers {
		task := w.task.Load()
		if task == 0 {
			continue
		}
		busy = true
		if task != w.seen || d.ended {
			w.seen = task
			continue
		}
		next := d.spare()
		if next == nil {
			continue
		}
		if w.task.CompareAndSwap(task, 0) {
			next.turn <- true
		} else {
			d.idle = append(d.idle, next)
		}
	}
	return busy
}
