package overlay

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// aheadMost is how many bytes of names are read ahead in a directory at most:
// nobody may ever ask for them, and who comes meanwhile waits.
const aheadMost = 16 << 10

// ReadAhead reads the names of the directory that a walk which has just listed
// dir lists next, if the caller has looked it up, and the attributes of its first
// entries. A walk goes by the names: into the first directory in dir, or else the
// next one beside it or above.
func (t *Tree) ReadAhead(dir *Node) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !t.attached(dir) {
		return
	}
	next := dir.dir.nextDir(0)
	for ; next == nil && dir.parent != nil; dir = dir.parent {
		d := dir.parent.dir
		next = d.nextDir(d.find(dir.name) + 1)
	}
	if next == nil {
		return
	}
	d := next.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.loadUpTo(next, aheadMost) != nil {
		return // who asks for it meets the error
	}
	// What happens to entries is heard of in plain layers only, which are watched.
	if t.watch != nil && len(d.stack) == 1 && !d.stack[0].layer.recorded && t.watch.hearsAll() {
		t.ahead.read(d, aheadTime)
	}
}

const (
	// aheadEntries is of how many entries the attributes are read ahead at most, for
	// the same reason.
	aheadEntries = 128

	// aheadTime is how long they are read at most, when the host has to ask a disk or
	// a network for them.
	aheadTime = 2 * time.Millisecond

	// aheadAge is how old they may be when they are used. Who walks asks at once.
	aheadAge = 100 * time.Millisecond
)

// aheadAttrs are the attributes of a directory's entries, read ahead. When one
// changes, its event is on the way: if its node is known by the time that is taken
// in, it is announced; if not, nothing is left here (drop), and it is read again.
type aheadAttrs struct {
	mu    sync.Mutex
	part  *hostDir // the directory's only part; nil for none
	when  time.Time
	names []string // "" for one that was taken
	stats []unix.Stat_t
	next  int // the one that a walk takes next
}

// read reads the attributes of the first entries of d that nobody has looked up, of
// no further one when the time is over. d.mu is held.
func (r *aheadAttrs) read(d *directory, most time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	part := d.stack[0]
	if r.part == part {
		return // and the walk comes to it now
	}
	fd, err := part.open()
	if err != nil {
		return
	}
	defer part.close()
	if r.stats == nil {
		r.names, r.stats = make([]string, aheadEntries), make([]unix.Stat_t, aheadEntries)
	}
	n := 0
	began := time.Now() //nolint:forbidigo // no output has it
	for i := 0; i < len(d.ents) && n < aheadEntries; i++ {
		if n > 0 && time.Since(began) > most { //nolint:forbidigo // no output has it
			break
		}
		if e := &d.ents[i]; e.node == nil && !e.dead && fstatat(fd, e.name, &r.stats[n]) == nil {
			r.names[n] = e.name
			n++
		}
	}
	r.part, r.when, r.next = part, time.Now(), 0 //nolint:forbidigo // no output has it
	clear(r.names[n:])
}

// take returns the part that has the entry name of d, in the layer l, and fills a;
// nil for what wasn't read ahead. It gives each once.
func (r *aheadAttrs) take(d *directory, name string, l *Layer, a *attrs) *hostDir {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.part == nil || len(d.stack) != 1 || r.part != d.stack[0] || r.part.layer != l {
		return nil
	}
	i := r.next
	if i >= len(r.names) || r.names[i] != name {
		if i = slices.Index(r.names, name); i < 0 {
			return nil
		}
	}
	r.names[i], r.next = "", i+1
	if time.Since(r.when) > aheadAge { //nolint:forbidigo // no output has it
		return nil
	}
	a.st = r.stats[i]
	a.m = l.plainMeta(&a.st)
	return r.part
}

// drop forgets all. Tree.mu is held exclusively.
func (r *aheadAttrs) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.part = nil
}

// nextDir returns the first known directory from the entry i on, or nil.
func (d *directory) nextDir(i int) *Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; i < len(d.ents); i++ {
		if e := &d.ents[i]; e.typ == unix.DT_DIR && !e.dead && e.node != nil {
			return e.node
		}
	}
	return nil
}
