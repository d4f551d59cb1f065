package overlay

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Checkpoint is the edits, frozen at a moment: the layers of the stack up to
// one. What is written later goes to a new layer on top.
type Checkpoint struct {
	ID   string    `json:"id"` // the layer's name in the stack, "0001"
	Name string    `json:"name,omitempty"`
	Time time.Time `json:"time"`

	// Temporary says that it is only there for who reads at its moment, and goes
	// with the last of them if nothing was edited since.
	Temporary bool `json:"temporary,omitempty"`
}

// checkpointFile is in the directory of a frozen layer.
const checkpointFile = "checkpoint.json"

// Checkpoint freezes the edits as they are and goes on in an empty layer: one
// step, whatever there is. Where nothing was edited since the last checkpoint, it
// returns that one, which is temporary no longer if c isn't, and gets c's name;
// unless it has another. c.ID is ignored.
// What programs have mapped and not yet synced is not part of it.
func (t *Tree) Checkpoint(c Checkpoint) (Checkpoint, error) {
	if t.state == nil {
		return Checkpoint{}, unix.EROFS
	}
	// Most of what must reach the disk does so while others may still write.
	if err := t.syncEdits(); err != nil {
		return Checkpoint{}, err
	}
	lasting := !c.Temporary
	frozen, err := t.push(&c)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if frozen || lasting {
		err = t.syncEdits()
	}
	return c, err
}

// push makes the new layer; false when the old one has nothing to freeze.
func (t *Tree) push(c *Checkpoint) (bool, error) {
	t.freeze.Lock()
	defer t.freeze.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	stackDir := t.stackDir()
	last, ok, err := t.unchanged(stackDir)
	if named := last.Name != "" && c.Name != "" && last.Name != c.Name; err != nil || ok && !named {
		if err == nil && !c.Temporary && (last.Temporary || last.Name == "" && c.Name != "") {
			last = Checkpoint{ID: last.ID, Name: c.Name, Time: c.Time}
			err = writeCheckpoint(filepath.Join(stackDir, last.ID), &last)
		}
		if c.Temporary {
			t.state.readers[last.ID]++
		}
		*c = last
		return false, err
	}
	return true, t.pushNew(c)
}

// pushNew is push whatever there is to freeze. Its locks are held.
func (t *Tree) pushNew(c *Checkpoint) error {
	stackDir, id := t.stackDir(), t.edits.id()
	number, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	snap, err := t.snapshot(t.root)
	if err != nil {
		return err
	}
	c.ID = id
	if err := writeCheckpoint(filepath.Join(stackDir, id), c); err != nil {
		return err
	}
	next := fmt.Sprintf("%0*d", len(firstEdits), number+1)
	if err := newEdits(stackDir, next, snap); err != nil {
		return err
	}
	top := editsLayer(filepath.Join(stackDir, next, "root"))
	if err := top.open(t, len(t.layers)); err != nil {
		return errors.Join(err, os.RemoveAll(filepath.Join(stackDir, next)))
	}
	if c.Temporary {
		t.state.readers[id]++
	}
	t.pushEdits(top, "..")
	t.epoch.Add(1)
	t.root.dir.stack = append([]*hostDir{t.edits.root}, t.root.dir.stack...)
	t.setInEdits(t.root)
	return nil
}

// unchanged returns the last checkpoint when the edits on top of it are empty.
func (t *Tree) unchanged(stackDir string) (Checkpoint, bool, error) {
	all, err := readCheckpoints(stackDir)
	if err != nil || len(all) == 0 {
		return Checkpoint{}, false, err
	}
	// A copy may have no other name than the one in the index (installCopy).
	for _, dir := range []*hostDir{t.edits.root, t.state.index.dir} {
		if names, err := readNames(dir); err != nil || len(names) > 0 {
			return Checkpoint{}, false, err
		}
	}
	below := t.root.dir.stack[1].layer
	if !below.edit {
		return Checkpoint{}, false, nil
	}
	same, err := sameRoots(t.edits.root, below.root)
	return all[len(all)-1], same, err
}

// sameRoots tells whether two edits' roots have the same time and attributes.
func sameRoots(a, b *hostDir) (bool, error) {
	var s, t unix.Stat_t
	if err := cmp.Or(a.statSelf(&s), b.statSelf(&t)); err != nil || s.Mtim != t.Mtim {
		return false, err
	}
	x, err := a.allXattrs()
	if err != nil {
		return false, err
	}
	y, err := b.allXattrs()
	return x == y, err
}

// newEdits makes the directory of an empty layer with the root's attributes.
// It appears whole.
func newEdits(stackDir, id string, root *snapshot) error {
	tmp, err := os.MkdirTemp(stackDir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone when it was renamed
	for _, sub := range []string{"root", "work", "index"} {
		if err := os.Mkdir(filepath.Join(tmp, sub), 0o755); err != nil {
			return err
		}
	}
	err = withDirFd(unix.AT_FDCWD, filepath.Join(tmp, "root"), func(fd int) error {
		return root.applyFd(fd, 0)
	})
	if err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(stackDir, id))
}

// syncEdits brings the filesystem of the edits to the disk. t.mu is not held.
func (t *Tree) syncEdits() error { return syncHost(t.Project().StateFile(".")) }

func writeCheckpoint(dir string, c *Checkpoint) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, checkpointFile), append(text, '\n'))
}

// Checkpoints lists the project's checkpoints, oldest first.
func (p *Project) Checkpoints() ([]Checkpoint, error) {
	dir := filepath.Join(p.StateDir(), editsName)
	if err := checkFormat(filepath.Join(dir, formatFile)); err != nil {
		return nil, ignoreMissing(err)
	}
	all, err := readCheckpoints(dir)
	for tries := 3; tries > 0 && errors.Is(err, os.ErrNotExist); tries-- {
		all, err = readCheckpoints(dir) // one was dropped meanwhile
	}
	return all, err
}

func readCheckpoints(stackDir string) ([]Checkpoint, error) {
	stack, err := editsStack(stackDir)
	if err != nil || len(stack) == 0 {
		return nil, err
	}
	var all []Checkpoint
	for _, id := range stack[:len(stack)-1] { // the last one is being written
		c := Checkpoint{ID: id}
		text, err := os.ReadFile(filepath.Join(stackDir, id, checkpointFile))
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(stackDir, id, checkpointFile), err)
		}
		all = append(all, c)
	}
	return all, nil
}

// Uncheckpoint ends one reading at a temporary checkpoint, and takes that back
// after the last if it is the newest and nothing was edited since: what an export
// needed for its moment leaves no trace.
func (t *Tree) Uncheckpoint(id string) error {
	if t.state == nil {
		return unix.EROFS
	}
	t.freeze.Lock()
	defer t.freeze.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.readers[id]--; t.state.readers[id] > 0 {
		return nil
	}
	delete(t.state.readers, id)
	stackDir := t.stackDir()
	last, ok, err := t.unchanged(stackDir)
	if err != nil || !ok || last.ID != id || !last.Temporary {
		return err
	}
	top := t.edits
	below := t.layers[top.rank-1]
	gone, err := os.MkdirTemp(stackDir, ".gone-")
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(stackDir, top.id()), filepath.Join(gone, top.id())); err != nil {
		return errors.Join(err, os.Remove(gone))
	}
	for _, d := range []*hostDir{t.state.index.dir, t.state.work} {
		t.dirs.drop(&d.h)
	}
	t.layers = t.layers[:top.rank]
	t.indexes = t.indexes[:len(t.indexes)-1]
	t.edits = below
	t.edits.Name = editsName
	t.state.index = t.indexes[len(t.indexes)-1]
	t.state.work = &hostDir{layer: below, parent: below.root, name: "../work"}
	t.root.dir.stack = t.root.dir.stack[1:]
	top.close()
	t.epoch.Add(^uint32(0)) // what was in these edits then, is again
	t.setInEdits(t.root)
	err = os.Remove(filepath.Join(stackDir, below.id(), checkpointFile))
	return errors.Join(err, os.RemoveAll(gone))
}
