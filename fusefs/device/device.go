// Package device serves a mounted FUSE device: it reads the kernel's requests,
// has go-fuse decode them and a [fuse.RawFileSystem] answer them, and writes the
// answers and announcements.
//
// Mostly one worker has the right to read. It handles what it has read itself,
// so a request costs one thread waking up, the caller's, when the next request
// comes before the worker has gone to sleep (reader.go). Others get the right
// when the work of one isn't enough, or when it is held up (workers.go). So
// requests are served concurrently, and none waits for long behind another.
//
// go-fuse's own [fuse.Server] has at least two threads waiting in the kernel,
// which take turns: see docs/adr/0013-one-reader.md for what that costs.
package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Device is a connection to the kernel: one mount, however often it is bound.
type Device struct {
	fd       int
	handler  *fuse.ProtocolServer
	idler    Idler // nil if the filesystem isn't one
	maxWrite int
	log      *slog.Logger
	kernel   uint64 // what it can do

	announcing sync.RWMutex
	closed     bool

	short sync.Once // of memory

	running  sync.WaitGroup // workers
	waiting  atomic.Bool    // one of them sleeps until there is a request
	watching atomic.Bool
	watch    *time.Timer

	mu      sync.Mutex
	workers []*worker
	idle    []*worker // those that wait for the right to read
	readers int       // how many have it
	ended   bool
}

// Idler is a filesystem that has something to do while nobody waits for it.
type Idler interface {
	// Meanwhile is called when a request is answered and the next isn't there
	// yet. It will be late by what Meanwhile takes, so that should be less than
	// most programs take between two requests.
	Meanwhile()
}

// Open takes over fd, a /dev/fuse that is mounted, and agrees with the kernel on
// the protocol (INIT). fs must be ready to answer; its Init and OnUnmount are its
// owner's to call, and no request is cancelled. o.MaxWrite must be a multiple of
// the page's size. On an error fd is closed, which ends the mount.
func Open(fd int, fs fuse.RawFileSystem, o *fuse.MountOptions, log *slog.Logger) (*Device, error) {
	d := &Device{fd: fd, handler: fuse.NewProtocolServer(fs, o), maxWrite: o.MaxWrite, log: log}
	d.idler, _ = fs.(Idler)
	d.watch = time.AfterFunc(time.Hour, d.relieve)
	d.watch.Stop()
	var err error = unix.EINVAL
	if o.MaxWrite > 0 && o.MaxWrite%unix.Getpagesize() == 0 {
		err = d.init()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("talk to the kernel: %w", err), unix.Close(fd))
	}
	return d, nil
}

// init answers the first request, and has who did it wait for the next.
func (d *Device) init() error {
	if err := unix.SetNonblock(d.fd, true); err != nil {
		return err
	}
	w, err := d.newWorker()
	if err != nil {
		return err
	}
	if err := w.init(); err != nil {
		w.free()
		return err
	}
	d.employ(w)
	d.idle = append(d.idle, w)
	return nil
}

func (w *worker) init() error {
	d := w.device
	n, err := w.await()
	if err != nil {
		return err
	}
	var in fuse.InitIn
	whole := make([]byte, unsafe.Sizeof(in))
	copy(whole, w.in[:n]) // before Linux 5.17 it ends with the flags
	if _, err := binary.Decode(whole, binary.NativeEndian, &in); err != nil {
		return err
	}
	d.kernel = in.Flags64()
	size, status := d.handler.HandleRequest([][]byte{w.in[:n]}, [][]byte{w.out})
	if !status.Ok() {
		return unix.Errno(status)
	}
	if _, err := unix.Write(d.fd, w.out[:size]); err != nil {
		return err
	}
	if code := int32(binary.NativeEndian.Uint32(w.out[4:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// KernelFlags returns what the kernel can do (CAP_… of go-fuse, FUSE_… of
// include/uapi/linux/fuse.h).
func (d *Device) KernelFlags() uint64 { return d.kernel }

// Serve answers requests until the mount is gone and the last of them is
// answered.
func (d *Device) Serve() {
	addDevice(1)
	defer addDevice(-1)
	d.mu.Lock()
	d.readers++
	d.spare().turn <- true // the worker that init has employed
	d.mu.Unlock()
	d.running.Wait()
	d.watch.Stop()
	d.announcing.Lock()
	defer d.announcing.Unlock()
	d.closed = true
	if err := unix.Close(d.fd); err != nil {
		d.log.Warn("close the FUSE device", "error", err)
	}
}

var (
	servingMu sync.Mutex
	serving   int // devices
)

// addDevice has the program run one goroutine more at once for each device that
// is served: the one that waits for its requests occupies a processor without
// using it (await). After the last Go decides again, by what the system allows.
func addDevice(n int) {
	servingMu.Lock()
	defer servingMu.Unlock()
	if serving += n; serving == 0 {
		runtime.SetDefaultGOMAXPROCS()
	} else {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	}
}
