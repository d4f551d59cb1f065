package device

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kernel plays the other end of the device: a socket that keeps messages apart.
type kernel struct {
	t      *testing.T
	fd     int
	device *Device
	fs     *slowFS
	served chan struct{}
}

// slowFS is a filesystem in which GETATTR of an odd node, and each FSYNC, waits to
// be let go.
type slowFS struct {
	fuse.RawFileSystem
	begun chan uint64
	letGo chan struct{}
	end   func() // lets all go

	busy atomic.Bool // Meanwhile waits to be let go as well
}

func (s *slowFS) Meanwhile() {
	if s.busy.CompareAndSwap(true, false) {
		s.begun <- 0
		<-s.letGo
	}
}

func (s *slowFS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.begun <- in.NodeId
	<-s.letGo
	return fuse.OK
}

func (s *slowFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == lazy {
		time.Sleep(lazyTime)
	}
	if in.NodeId%2 == 1 {
		s.begun <- in.NodeId
		<-s.letGo
	}
	out.Ino = in.NodeId
	return fuse.OK
}

// More codes of enum fuse_opcode.
const (
	opForget  = 2
	opGetattr = 3
	opInit    = 26
)

// message makes a request: struct fuse_in_header and what follows it.
func message(opcode uint32, unique, node uint64, body ...uint32) []byte {
	ne := binary.NativeEndian
	m := ne.AppendUint32(nil, uint32(headerSize+4*len(body)))
	m = ne.AppendUint32(m, opcode)
	m = ne.AppendUint64(m, unique)
	m = ne.AppendUint64(m, node)
	m = append(m, make([]byte, headerSize-len(m))...)
	for _, word := range body {
		m = ne.AppendUint32(m, word)
	}
	return m
}

func getattr(unique, node uint64) []byte { return message(opGetattr, unique, node, 0, 0, 0, 0) }

// Of struct fuse_init_in: the flags FUSE_NO_OPEN_SUPPORT, and another 32 of them.
const (
	noOpen    = 1 << 17
	moreFlags = 1
)

func initRequest(major uint32) []byte {
	body := append([]uint32{major, 41, 1 << 17, noOpen, moreFlags}, make([]uint32, 11)...)
	return message(opInit, 1, 0, body...)
}

// meet has a device serve, whose kernel begins with that request.
func meet(t *testing.T, request []byte) (*kernel, error) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(int64(20 * time.Second))
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: pair[0], served: make(chan struct{})}
	k.fs = &slowFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), begun: make(chan uint64, 100), letGo: make(chan struct{})}
	k.fs.end = sync.OnceFunc(func() { close(k.fs.letGo) })
	k.send(request)
	k.device, err = Open(pair[1], k.fs, &fuse.MountOptions{MaxWrite: 64 << 10}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		return nil, errors.Join(err, unix.Close(k.fd))
	}
	go func() {
		defer close(k.served)
		k.device.Serve()
	}()
	t.Cleanup(k.unmount)
	return k, nil
}

// connect has a device serve, with us as its kernel.
func connect(t *testing.T) *kernel {
	t.Helper()
	k, err := meet(t, initRequest(7))
	if err != nil {
		t.Fatal(err)
	}
	if unique, errno := k.receive(); unique != 1 || errno != 0 {
		t.Fatalf("answer of INIT: number %d, error %d", unique, errno)
	}
	if want := uint64(noOpen | moreFlags<<32); k.device.KernelFlags() != want {
		t.Errorf("flags of the kernel: %#x, want %#x", k.device.KernelFlags(), want)
	}
	return k
}

func (k *kernel) send(m []byte) {
	k.t.Helper()
	if _, err := unix.Write(k.fd, m); err != nil {
		k.t.Fatal("send a request: ", err)
	}
}

// receive returns which request the next answer is of, and its error.
func (k *kernel) receive() (unique uint64, errno int32) {
	k.t.Helper()
	m := k.message()
	return binary.NativeEndian.Uint64(m[8:]), int32(binary.NativeEndian.Uint32(m[4:]))
}

func (k *kernel) message() []byte {
	k.t.Helper()
	buf := make([]byte, 1<<17)
	n, err := unix.Read(k.fd, buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(k.fd, buf)
	}
	if err != nil {
		k.t.Fatal("receive: ", err)
	}
	if n < beforeRead || int(binary.NativeEndian.Uint32(buf)) != n {
		k.t.Fatalf("a message of %d bytes says: % x", n, buf[:min(n, beforeRead)])
	}
	return buf[:n]
}

// unmount ends the connection and waits for the device to end.
func (k *kernel) unmount() {
	k.t.Helper()
	if k.fd < 0 {
		return
	}
	k.fs.end()
	if err := unix.Close(k.fd); err != nil {
		k.t.Error(err)
	}
	k.fd = -1
	select {
	case <-k.served:
	case <-time.After(20 * time.Second):
		k.t.Error("Serve doesn't return")
	}
}

func TestRequestsAreAnswered(t *testing.T) {
	k := connect(t)
	for i := range uint64(1000) {
		k.send(getattr(10+i, 2))
		if unique, errno := k.receive(); unique != 10+i || errno != 0 {
			t.Fatalf("answer %d: number %d, error %d", i, unique, errno)
		}
	}
	const unknown = 4000
	k.send(message(unknown, 5, 2))
	if unique, errno := k.receive(); unique != 5 || errno != -int32(unix.ENOSYS) {
		t.Errorf("unknown request: number %d, error %d", unique, errno)
	}
}

func TestWhatIsHeldUpHoldsUpNobody(t *testing.T) {
	k := connect(t)
	const held = 40
	for i := range uint64(held) {
		k.send(getattr(100+i, 2*i+1))
		k.send(getattr(1000+i, 2))
		if unique, _ := k.receive(); unique != 1000+i {
			t.Fatalf("answer of %d instead of %d", unique, 1000+i)
		}
		<-k.fs.begun
	}
	k.fs.end()
	seen := make(map[uint64]bool)
	for range held {
		unique, _ := k.receive()
		seen[unique] = true
	}
	for i := range uint64(held) {
		if !seen[100+i] {
			t.Errorf("no answer of %d", 100+i)
		}
	}
	// They go when they aren't needed: none but the reader and those that wait.
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		k.device.mu.Lock()
		n := len(k.device.workers)
		k.device.mu.Unlock()
		if n <= 1+spares {
			break
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%d workers stay", n)
		}
	}
}

func TestWhatIsDoneMeanwhileHoldsUpNobody(t *testing.T) {
	k := connect(t)
	const held = 5
	for i := range uint64(held) {
		k.fs.busy.Store(true)
		for k.fs.busy.Load() { // a worker that finds nobody coming sleeps instead
			k.send(getattr(1, 2))
			k.receive()
			time.Sleep(100 * time.Microsecond)
		}
		<-k.fs.begun
		k.send(getattr(100+i, 2))
		if unique, _ := k.receive(); unique != 100+i {
			t.Errorf("answer of %d instead of %d", unique, 100+i)
		}
	}
}

func TestACrowdIsDealtWithByMany(t *testing.T) {
	k := connect(t)
	k.device.watching.Store(true) // nobody is relieved
	k.send(getattr(1, 1))
	<-k.fs.begun // what comes now is there before anybody comes for it
	for i := range uint64(2 * crowd) {
		k.send(getattr(10+i, 2))
	}
	k.send(getattr(2, 1))
	k.send(getattr(99, 2))
	k.fs.letGo <- struct{}{}
	for range 2*crowd + 2 { // all but one of those that are held up
		k.receive()
	}
	k.fs.end()
	k.receive()
}

func TestWhatTakesTimeIsPassedBefore(t *testing.T) {
	k := connect(t)
	k.device.watching.Store(true) // nobody is relieved
	const syncs = 5
	for i := range uint64(syncs) {
		k.send(message(opFsync, 10+i, 2, 0, 0, 0, 0))
		<-k.fs.begun
		k.send(getattr(100+i, 2))
		if unique, _ := k.receive(); unique != 100+i {
			t.Errorf("answer of %d instead of %d", unique, 100+i)
		}
	}
	k.fs.end()
	for range syncs {
		k.receive()
	}
}

// lazy is a node whose attributes take a while.
const (
	lazy     = 1000
	lazyTime = 50 * time.Millisecond
)

func TestWhoIsSlowDoesNotSlowOthers(t *testing.T) {
	k := connect(t)
	k.device.watching.Store(true) // nobody is relieved
	const slowOnes = 10
	var quickOnes int
	k.send(getattr(lazy, lazy))
	k.send(getattr(1, 2))
	for left := slowOnes; left > 0; {
		if unique, _ := k.receive(); unique == lazy {
			left--
			k.send(getattr(lazy, lazy))
		} else {
			quickOnes++
			k.send(getattr(1, 2))
		}
	}
	if quickOnes < 2*slowOnes {
		t.Errorf("%d requests beside %d that take %v each", quickOnes, slowOnes, lazyTime)
	}
}

func TestKernelsThatBeginOtherwise(t *testing.T) {
	request := initRequest(7)[:headerSize+16] // Linux 5.16 and before
	binary.NativeEndian.PutUint32(request, headerSize+16)
	k, err := meet(t, request)
	if err != nil {
		t.Fatal("a short INIT: ", err)
	}
	if k.device.KernelFlags() != noOpen {
		t.Errorf("flags of the kernel: %#x, want %#x", k.device.KernelFlags(), noOpen)
	}
	if _, err := meet(t, initRequest(6)); !errors.Is(err, unix.EIO) {
		t.Errorf("another protocol: %v", err)
	}
}

func TestForgettingIsNotAnswered(t *testing.T) {
	k := connect(t)
	for range 100 {
		k.send(message(opForget, 0, 2, 1, 0))
	}
	k.send(getattr(7, 2))
	if unique, _ := k.receive(); unique != 7 {
		t.Errorf("answer of %d", unique)
	}
}

func TestAnnouncements(t *testing.T) {
	k := connect(t)
	if err := k.device.InvalidateEntry(7, "name"); err != nil {
		t.Fatal(err)
	}
	// struct fuse_out_header with the code in place of an error, and
	// struct fuse_notify_inval_entry_out.
	ne := binary.NativeEndian
	want := ne.AppendUint32(nil, 16+16+5)
	want = ne.AppendUint32(want, 3)
	want = ne.AppendUint64(want, 0)
	want = ne.AppendUint64(want, 7)
	want = ne.AppendUint32(want, 4)
	want = ne.AppendUint32(want, 0)
	want = append(want, "name\x00"...)
	if got := k.message(); string(got) != string(want) {
		t.Errorf("entry:\n% x, want\n% x", got, want)
	}
	if err := k.device.ExpireEntry(7, "name"); err != nil {
		t.Fatal(err)
	}
	ne.PutUint32(want[28:], 1)
	if got := k.message(); string(got) != string(want) {
		t.Errorf("entry, to be asked for:\n% x, want\n% x", got, want)
	}
	if err := k.device.InvalidateInode(8); err != nil {
		t.Fatal(err)
	}
	want = ne.AppendUint32(nil, 16+24)
	want = ne.AppendUint32(want, 2)
	want = ne.AppendUint64(want, 0)
	want = ne.AppendUint64(want, 8)
	want = append(want, make([]byte, 16)...)
	if got := k.message(); string(got) != string(want) {
		t.Errorf("inode:\n% x, want\n% x", got, want)
	}
	if err := k.device.InvalidateAttributes(8); err != nil {
		t.Fatal(err)
	}
	ne.PutUint64(want[24:], 1<<64-1)
	if got := k.message(); string(got) != string(want) {
		t.Errorf("attributes:\n% x, want\n% x", got, want)
	}
	k.unmount()
	if err := k.device.InvalidateInode(8); !errors.Is(err, unix.EBADF) {
		t.Errorf("after the unmount: %v", err)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	k := connect(t)
	k.send(getattr(1, 1))
	<-k.fs.begun
	k.send(getattr(2, 2))
	k.receive()
	k.fs.end()
	k.receive()
	k.unmount()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !strings.Contains(string(stacks), "device.(*worker)") {
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("workers are left:\n%s", stacks)
		}
	}
}

func TestOpenFailsWhereNoKernelAnswers(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(pair[0]); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if _, err := Open(pair[1], fuse.NewDefaultRawFileSystem(), &fuse.MountOptions{MaxWrite: 64 << 10}, log); err == nil {
		t.Error("no error")
	}
	if _, err := unix.FcntlInt(uintptr(pair[1]), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor stays open: %v", err)
	}
}
