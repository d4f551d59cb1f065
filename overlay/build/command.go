package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// command is one run of a recipe's command.
type command struct {
	argv    []string
	dir     string
	env     []string
	timeout time.Duration
	log     string   // file that has what it says
	folders []string // where it may write; nil for anywhere
}

// grace is how long a build that is to end may take to do so.
const grace = 3 * time.Second

// run runs the command and ends all that it has left in its process group.
func (c *command) run(ctx context.Context) error {
	log, err := os.Create(c.log)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // who reads it sees what is missing
	_, _ = fmt.Fprintf(log, "$ cd %s\n$ %s\n", c.dir, strings.Join(c.argv, " "))

	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	// The person's umask must not show in what is built.
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `umask 022; exec "$@"`, "sh"}, c.argv...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = grace
	start := cmd.Start
	if c.folders != nil {
		start = func() error { return startConfined(cmd, c.folders) }
	}
	if err := start(); err != nil {
		return err
	}
	err = cmd.Wait()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // mostly nobody is left
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return fmt.Errorf("took longer than %v and was ended (its recipe may raise timeout)", c.timeout)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("the command failed (%w)", err)
	}
	return nil
}

var errTimeout = errors.New("timeout")

// tailLines is how much of a log is shown with a failure.
const tailLines = 12

// tail returns the last lines of a log.
func tail(file string) []string {
	const most = 8 << 10
	text := end(file, most)
	if text == "" {
		return nil
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(text) == most {
		lines = lines[1:] // cut in the middle
	}
	return lines[max(0, len(lines)-tailLines):]
}
