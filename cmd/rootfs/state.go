package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// mountState is what .rootfs/mount.json says about a mounted project.
//
// The daemon holds an exclusive flock on that file for as long as it lives.
// So a file that somebody else can lock is a dead daemon's, whatever process
// has its number now, and waiting for the lock is waiting for the daemon.
type mountState struct {
	PID        int    `json:"pid"`
	Mountpoint string `json:"mountpoint"` // absolute, without symlinks
	Bytes      []byte `json:"mountpoint_bytes,omitempty"`
}

func statePath(p *overlay.Project) string { return p.StateFile("mount.json") }

// stateClaim is the state file of this process.
type stateClaim struct {
	project *overlay.Project
	file    *os.File // nil where nothing is kept
}

// claimState writes the state file, when an earlier daemon has let go of it.
// The caller holds the lock on the edits, so no other daemon does the same.
func claimState(p *overlay.Project, s mountState) (*stateClaim, error) {
	if p.StateDir() == "" {
		return new(stateClaim), nil
	}
	s.Bytes = notUTF8(s.Mountpoint)
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := awaitRelease(statePath(p)); err != nil {
		return nil, err
	}
	// Who finds the lock taken reads at once: it appears whole.
	f, err := os.OpenFile(statePath(p)+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX)
	if err == nil {
		_, err = f.Write(append(text, '\n'))
	}
	if err == nil {
		err = os.Rename(f.Name(), statePath(p))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), bare(err)), os.Remove(f.Name()), f.Close())
	}
	return &stateClaim{project: p, file: f}, nil
}

// awaitRelease waits until an earlier daemon has let go of its state file.
func awaitRelease(file string) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(flock(f, unix.LOCK_SH), f.Close())
}

func (s *stateClaim) release() error {
	if s.file == nil {
		return nil
	}
	return errors.Join(os.Remove(statePath(s.project)), s.file.Close())
}

// readState returns the state of a mounted project and a function that waits
// until its daemon has ended; a nil state if no daemon lives. It waits for the
// end of one that dies.
func readState(p *overlay.Project) (*mountState, waitFunc, error) {
	if p.StateDir() == "" {
		return nil, nil, nil
	}
	f, err := os.Open(statePath(p))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if err := flock(f, unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil, errors.Join(err, f.Close())
	}
	s := new(mountState)
	text, err := io.ReadAll(f)
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), err), f.Close())
	}
	if s.Bytes != nil {
		s.Mountpoint = string(s.Bytes)
	}
	if lostDaemon(unix.Statfs(s.Mountpoint, new(unix.Statfs_t))) {
		// It was killed: the kernel closes its files one by one.
		if err := waitUnlocked(f, daemonLimit); err != nil {
			return nil, nil, fmt.Errorf("the daemon (process %d) serves its mount on %s no more, and hasn't ended: %w", s.PID, quoted(s.Mountpoint), err)
		}
		return nil, nil, nil
	}
	return s, func(limit time.Duration) error { return waitUnlocked(f, limit) }, nil
}

// waitFunc waits for a daemon's end, for at most limit.
type waitFunc func(limit time.Duration) error

func waitUnlocked(f *os.File, limit time.Duration) error {
	const step = 5 * time.Millisecond
	for ; limit > 0; limit -= step {
		if err := flock(f, unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return errors.Join(err, f.Close())
		}
		time.Sleep(step)
	}
	return errors.Join(os.ErrDeadlineExceeded, f.Close())
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
