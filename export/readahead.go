package export

import (
	"runtime"
	"sync"
)

// readAhead loads the directories that a walk will come to, the next ones
// first, while the walk is busy with others. What it has loaded and the walk
// hasn't visited is bounded.
type readAhead struct {
	walker *walker

	mu     sync.Mutex
	work   sync.Cond // there is something to load, or the end
	loaded sync.Cond // a folder's state changed
	todo   []*folder // the next one last
	ahead  int       // entries that are loaded and wait to be visited
	ended  bool
	done   sync.WaitGroup
}

// folderState is where a folder is; readAhead.mu covers it.
type folderState struct {
	begun, done bool
	ahead       int // entries that were loaded ahead of the walk
	err         error
}

const (
	// readers bounds the goroutines: beyond a few they wait for one lock.
	readers = 3

	// aheadEntries bounds memory, to some 4 MiB. A reader that has filled it
	// rests until half of it is visited: to wake it costs more than a folder.
	aheadEntries = 16 << 10
)

func (r *readAhead) start(w *walker) {
	r.walker = w
	r.work.L, r.loaded.L = &r.mu, &r.mu
	for range min(readers, max(1, runtime.GOMAXPROCS(0)-1)) {
		r.done.Go(r.run)
	}
}

// stop waits for the readers to end.
func (r *readAhead) stop() {
	r.mu.Lock()
	r.ended = true
	r.work.Broadcast()
	r.mu.Unlock()
	r.done.Wait()
}

func (r *readAhead) run() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.ended {
		if !r.next() {
			r.work.Wait()
		}
	}
}

// next loads the next folder that nobody has begun; false when there is none,
// or no room for it. r.mu is held.
func (r *readAhead) next() bool {
	for len(r.todo) > 0 && r.ahead < aheadEntries {
		f := r.todo[len(r.todo)-1]
		r.todo = r.todo[:len(r.todo)-1]
		if !f.state.begun {
			r.load(f)
			f.state.ahead = len(f.entries)
			r.ahead += len(f.entries)
			return true
		}
	}
	return false
}

// load loads f; r.mu is held, but not meanwhile.
func (r *readAhead) load(f *folder) {
	f.state.begun = true
	r.mu.Unlock()
	err := r.walker.load(f)
	r.mu.Lock()
	f.state.done, f.state.err = true, err
	for i := len(f.folders) - 1; i >= 0; i-- {
		r.todo = append(r.todo, f.folders[i])
	}
	r.loaded.Broadcast()
	if len(f.folders) > 0 && r.ahead <= aheadEntries/2 {
		r.work.Broadcast()
	}
}

// need returns when f is loaded, by whomever. Meanwhile it loads others.
func (r *readAhead) need(f *folder) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !f.state.begun {
		r.load(f)
	}
	for !f.state.done {
		if !r.next() && !f.state.done {
			r.loaded.Wait()
		}
	}
	if n := f.state.ahead; n > 0 {
		if r.ahead -= n; r.ahead <= aheadEntries/2 && r.ahead+n > aheadEntries/2 {
			r.work.Broadcast()
		}
	}
	return f.state.err
}
