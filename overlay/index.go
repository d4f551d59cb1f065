package overlay

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
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
	inos map[string]bool // what the keys begin with, of keys that there are or were
}

// indexKey names a lower file. Size and time are in it because a rebuilt layer
// uses inode numbers again.
func indexKey(l *Layer, st *unix.Stat_t) string {
	return fmt.Sprintf("%x-%x-%x-%x.%x", l.inoBase>>inoBits, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec)
}

// keyIno is the part of a key that names the inode.
func keyIno(key string) string {
	layer, rest, _ := strings.Cut(key, "-")
	ino, _, _ := strings.Cut(rest, "-")
	return layer + "-" + ino
}

// hasAnother tells whether there is an entry for what the inode of key was before.
func (x *index) hasAnother(key string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.inos[keyIno(key)]
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
		x.keys, x.inos = make(map[string]bool, len(names)), make(map[string]bool, len(names))
		for _, h := range names {
			x.keys[h.name], x.inos[keyIno(h.name)] = true, true
		}
	}
	return x.keys[key], nil
}

// fromIndex makes n, a file of a lower layer with several names, stand for
// its copy when it was copied up through another name; and, when that is
// frozen in a checkpoint, for the copy's copy. A file of a layer that was written to
// since it was copied isn't the same as its copy any more, which keeps the number.
func (t *Tree) fromIndex(n *Node, a *attrs) error {
	if !n.part.layer.recorded {
		// A copy from when it had one name has the number that it had then.
		a.m.origin = anotherIno(n.part.layer.ino(&a.st), "")
	}
	for _, x := range t.indexes {
		if x.dir.layer.rank <= n.part.layer.rank {
			continue
		}
		key := indexKey(n.part.layer, &a.st)
		if ok, err := x.has(key); err != nil || !ok {
			if err != nil {
				return err
			}
			if !n.part.layer.edit && x.hasAnother(key) {
				a.m.origin = anotherIno(n.part.layer.ino(&a.st), key)
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

// anotherIno is a number that depends on what the file of the key is now.
func anotherIno(ino uint64, key string) uint64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return (ino ^ uint64(h.Sum32())<<inoBits) | 1<<63 // which no layer's number has
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
	x.keys[key], x.inos[keyIno(key)] = true, true
	x.mu.Unlock()
	return nil
}
