package fusefs

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// tidier gives memory back to the system when work has come to rest: left to
// itself, an idle Go program keeps what it has grown to, and what its pools
// hold, for minutes.
type tidier struct {
	timer *time.Timer
	until atomic.Uint64 // what allocated said at the last time
	ended atomic.Bool
}

const (
	// rest is how long nobody has asked for a collection.
	rest = 3 * time.Second

	// worthwhile is how much must have been allocated since the last time, in
	// bytes: the runtime collects every two minutes, in idleness too.
	worthwhile = 8 << 20
)

func newTidier() *tidier {
	t := new(tidier)
	t.timer = time.AfterFunc(time.Hour, t.tidy)
	t.timer.Stop()
	return t
}

// soon has memory given back when work rests from now on.
func (t *tidier) soon() { t.timer.Reset(rest) }

// follow watches the collections, which only work brings about.
func (t *tidier) follow() {
	runtime.AddCleanup(new([64]byte), func(t *tidier) {
		if !t.ended.Load() {
			t.follow()
			t.collected()
		}
	}, t)
}

// collected has memory given back if there was work before this collection.
func (t *tidier) collected() {
	if !t.ended.Load() && allocated()-t.until.Load() >= worthwhile {
		t.soon()
	}
}

// stop ends what follow and soon have begun.
func (t *tidier) stop() {
	t.ended.Store(true)
	t.timer.Stop()
}

// tidy collects twice, since what a pool holds survives one: go-fuse's requests
// of 1 MiB among it.
func (t *tidier) tidy() {
	t.until.Store(allocated())
	runtime.GC()
	debug.FreeOSMemory()
}

// allocated is how many bytes have been allocated since the start.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
