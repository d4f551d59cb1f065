package overlay

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// index finds the one copied-up file that stands for all names of a lower
// file with several, as overlayfs does with index=on. An entry is a hard link
// of the copy, named after the lower inode.
type index struct {
	dir  *hostDir
	mu   sync.Mutex
	keys map[string]bool // nil until first needed
}

// indexKey names a lower file. Size and time are in it because a rebuilt layer
// uses inode numbers again.
func indexKey(l *Layer, st *unix.Stat_t) string {
	return fmt.Sprintf("%x-%x-%x-%x.%x", l.inoBase>>inoBits, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec)
}

// has tells whether there is an entry for key.
func (x *index) has(key string) (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.keys == nil {
		names, err := readNames(x.dir)
		if err != nil {
			return false, err
		}
		x.keys = make(map[string]bool, len(names))
		for _, h := range names {
			x.keys[h.name] = true
		}
	}
	return x.keys[key], nil
}

// fromIndex makes n, a file of a lower layer with several names, stand for
// its copy when it was copied up through another name; and, when that is
// frozen in a checkpoint, for the copy's copy.
func (t *Tree) fromIndex(n *Node, a *attrs) error {
	for _, x := range t.indexes {
		if x.dir.layer.rank <= n.part.layer.rank {
			continue
		}
		key := indexKey(n.part.layer, &a.st)
		if ok, err := x.has(key); err != nil || !ok {
			if err != nil {
				return err
			}
			continue
		}
		ok, err := x.dir.look(key, a)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		t.put(n, place{x.dir, key})
		n.hostIno = a.st.Ino
		if x.dir.layer == t.edits {
			t.setInEdits(n)
		}
	}
	return nil
}

// remove takes back an entry of a copy that got no name.
func (x *index) remove(key string) error {
	fd, err := x.dir.open()
	if err != nil {
		return err
	}
	defer x.dir.close()
	if err := unix.Unlinkat(fd, key, 0); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.keys, key)
	return nil
}

// add links the work file temp into the index.
func (x *index) add(work int, temp, key string) error {
	if _, err := x.has(key); err != nil { // loads the keys
		return err
	}
	fd, err := x.dir.open()
	if err != nil {
		return err
	}
	defer x.dir.close()
	err = unix.Linkat(work, temp, fd, key, 0)
	if errors.Is(err, unix.EEXIST) { // left by a crash before the copy got its name
		if err = unix.Unlinkat(fd, key, 0); err == nil {
			err = unix.Linkat(work, temp, fd, key, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	x.mu.Lock()
	x.keys[key] = true
	x.mu.Unlock()
	return nil
}
