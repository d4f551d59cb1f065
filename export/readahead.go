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
	room   int       // how many more folders may wait to be visited
	ended  bool
	done   sync.WaitGroup
}

// folderState is where a folder is; readAhead.mu covers it.
type folderState struct {
	begun, done, ahead bool
	err                error
}

const (
	// readers bounds the goroutines: beyond a few they wait for one lock.
	readers = 3

	// aheadFolders bounds memory: with full batches, to some 10 MiB.
	aheadFolders = 64
)

func (r *readAhead) start(w *walker) {
	r.walker, r.room = w, aheadFolders
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
	for len(r.todo) > 0 && r.room > 0 {
		f := r.todo[len(r.todo)-1]
		r.todo = r.todo[:len(r.todo)-1]
		if !f.state.begun {
			r.room--
			f.state.ahead = true
			r.load(f)
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
	r.work.Broadcast()
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
	if f.state.ahead {
		r.room++
		r.work.Signal()
	}
	return f.state.err
}
