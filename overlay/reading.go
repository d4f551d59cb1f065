package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Who reads a whole project, as an export does, may take long, and the daemon
// that froze the edits for it may end. Its lock on the format file of the edits
// keeps gc away; and who begins to edit leaves what it may be reading alone, and
// goes on in a layer above.

// lockReading takes the lock that the options ask for, or looks whether others
// have it.
func (t *Tree) lockReading(dir string, o *Options) error {
	writable := t.state != nil
	if !writable && !o.Steady {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, formatFile))
	if err != nil {
		return err
	}
	if !writable {
		t.reading = f
		return awaitLock(o.Context, f, unix.LOCK_SH) // a gc may have it
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil && o.alone:
		t.state.alone = f
		return nil
	case errors.Is(err, unix.EWOULDBLOCK) && o.alone:
		err = fmt.Errorf("%s: another command still reads the edits: try again when it has ended", dir)
	case errors.Is(err, unix.EWOULDBLOCK):
		t.state.beingRead, err = true, nil
	}
	return errors.Join(err, f.Close())
}

// freezeForReaders makes a checkpoint, so that the edits that others may read
// stay as they are.
func (t *Tree) freezeForReaders() error {
	t.freeze.Lock()
	defer t.freeze.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now() //nolint:forbidigo // no output has it
	if err := t.pushNew(&Checkpoint{Time: now.UTC().Truncate(time.Second), Temporary: true}); err != nil {
		return fmt.Errorf("go on above what is being read: %w", err)
	}
	return nil // nobody gives it back, so it counts as being read for good
}

// BeingEdited tells whether a process has the project open to edit.
func (p *Project) BeingEdited() (bool, error) {
	f, err := os.Open(p.StateFile("lock"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // closing gives the lock back
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
