package overlay

import "golang.org/x/sys/unix"

// aheadMost is how many bytes of names are read ahead in a directory at most:
// nobody may ever ask for them, and who comes meanwhile waits.
const aheadMost = 16 << 10

// ReadAhead reads the names of the directory that a walk which has just listed
// dir lists next, if the caller has looked it up. A walk goes by the names: into
// the first directory in dir, or else the next one beside it or above.
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
	next.dir.mu.Lock()
	defer next.dir.mu.Unlock()
	_ = t.loadUpTo(next, aheadMost) // who asks for it meets the error
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
