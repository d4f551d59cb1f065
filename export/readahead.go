package export

import (
	"runtime"
	"slices"
	"sync"
)

// readAhead loads the directories that a walk will come to, the next ones
// first, while the walk is busy with others. What it has loaded and the walk
// hasn't visited is bounded.
type readAhead struct {
	walker *walker

	mu     sync.Mutex
	work   sync.Cond // there is something to load, or the end
	loaded sync.Cond // a part's state changed
	todo   []*part   // the next one last
	ahead  int       // entries that are loaded and wait to be visited
	ended  bool
	done   sync.WaitGroup
}

// partState is where a part is; readAhead.mu covers it.
type partState struct {
	begun, done bool
	ahead       int // entries that were loaded ahead of the walk
	err         error
}

const (
	// readers bounds the goroutines: beyond a few they wait for one lock.
	readers = 3

	// aheadEntries bounds memory, to some 4 MiB. A reader that has filled it
	// rests until half of it is visited: to wake it costs more than a small folder.
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

// next loads the next part that nobody has begun; false when there is none,
// or no room for it. r.mu is held.
func (r *readAhead) next() bool {
	for len(r.todo) > 0 && r.ahead < aheadEntries {
		p := r.todo[len(r.todo)-1]
		r.todo = r.todo[:len(r.todo)-1]
		if !p.state.begun {
			r.load(p)
			p.state.ahead = len(p.entries)
			r.ahead += len(p.entries)
			return true
		}
	}
	return false
}

// load loads p; r.mu is held, but not meanwhile. The next part of a directory
// can be loaded at the same time, but comes after the folders in this one.
func (r *readAhead) load(p *part) {
	p.state.begun = true
	r.mu.Unlock()
	err := r.walker.load(p, func() {
		r.mu.Lock()
		r.add(p.next)
		r.mu.Unlock()
	})
	r.mu.Lock()
	p.state.done, p.state.err = true, err
	slices.Reverse(p.folders)
	r.add(p.folders...)
	slices.Reverse(p.folders)
	r.loaded.Broadcast()
}

// add has parts loaded ahead, the last one first. r.mu is held.
func (r *readAhead) add(parts ...*part) {
	r.todo = append(r.todo, parts...)
	if len(parts) > 0 && r.ahead <= aheadEntries/2 {
		r.work.Broadcast()
	}
}

// need returns when p is loaded, by whomever. Meanwhile it loads others.
func (r *readAhead) need(p *part) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !p.state.begun {
		r.load(p)
	}
	for !p.state.done {
		if !r.next() && !p.state.done {
			r.loaded.Wait()
		}
	}
	if n := p.state.ahead; n > 0 {
		if r.ahead -= n; r.ahead <= aheadEntries/2 && r.ahead+n > aheadEntries/2 {
			r.work.Broadcast()
		}
	}
	return p.state.err
}
