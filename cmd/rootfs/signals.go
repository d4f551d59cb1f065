package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// interrupts are the signals that ask a command to end: Ctrl-C, kill(1) and a
// terminal that goes away, unless nohup(1) keeps that from it.
func interrupts() []os.Signal {
	all := []os.Signal{unix.SIGINT, unix.SIGTERM}
	if !signal.Ignored(unix.SIGHUP) {
		all = append(all, unix.SIGHUP)
	}
	return all
}

// interruptible returns a context that such a signal ends, and not the process,
// until stop is called: for work that has something to clean up.
func interruptible(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	return signal.NotifyContext(parent, interrupts()...)
}

// outliveReaders makes writing to who reads no more an error: by default, it
// ends a process whose stdout or stderr that is. Programs that are started
// don't inherit it.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }
