package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// daemonEnv tells a process that it is the daemon its parent waits for.
const daemonEnv = "ROOTFS_DAEMON"

// readyMark is the last byte that the daemon sends to its parent. What comes
// before are messages.
const readyMark = 0

func isDaemon() bool { return os.Getenv(daemonEnv) != "" }

// daemonise runs the same command line in a session of its own and returns
// when that process has mounted, or with its failure. A Go program can't
// fork, so it starts itself.
func daemonise(std streams) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), daemonEnv+"=1")
	cmd.Stderr = w
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	// What the caller has opened besides, a lock for one, isn't the daemon's to keep.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // from Linux 5.11 on
	// The daemon's session gets no Ctrl-C.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, interrupts()...)
	defer close(signals)
	defer signal.Stop(signals)
	err = cmd.Start()
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	var interrupted atomic.Bool
	go func() {
		for range signals {
			interrupted.Store(true)
			_ = cmd.Process.Signal(unix.SIGTERM) // or it has ended
		}
	}()
	said, ready := relay(r, std.err)
	if ready {
		err = cmd.Process.Release()
	} else {
		err = cmd.Wait()
	}
	switch {
	case interrupted.Load():
		return errors.New("interrupted; nothing is mounted")
	case ready:
		return err
	}
	if exit := new(exec.ExitError); said && errors.As(err, &exit) && exit.Exited() {
		return &toldError{status: exit.ExitCode()}
	}
	return fmt.Errorf("the daemon ended before it had mounted: %w", err)
}

// relay passes on what the daemon says until it is ready or gone.
func relay(r, w *os.File) (said, ready bool) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		text, _, ready := bytes.Cut(buf[:n], []byte{readyMark})
		if len(text) > 0 {
			said = true
			_, _ = w.Write(text) // nobody left to tell
		}
		if ready || err != nil {
			return said, ready
		}
	}
}

// detach turns this process into a daemon that keeps no terminal and no
// directory, and tells the parent that the mount is ready.
func detach(p *overlay.Project) error {
	file := p.StateFile("mount.log")
	if p.StateDir() == "" {
		file = os.DevNull // the mount is only read, and keeps nothing
	}
	log, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // stderr holds it
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// A parent that was killed meanwhile is an error here, not the end.
	if _, err := os.Stderr.Write([]byte{readyMark}); err != nil {
		return fmt.Errorf("tell the parent that the mount is ready: %w", err)
	}
	return unix.Dup3(int(log.Fd()), int(os.Stderr.Fd()), 0)
}
