package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The test binary is the program too: with it in PATH as "rootfs", scripts
// and tests start real processes, daemons among them.
func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){"rootfs": main, "mount.fuse.rootfs": main, "supervised": supervised})
}

// userCache is the person's cache, which outlives a run of the tests.
var userCache string

// checked is a run that fails if it leaves a mount behind.
type checked struct{ *testing.M }

func (c checked) Run() int {
	dir, err := os.MkdirTemp("", "rootfs-test")
	if err == nil {
		userCache, err = os.UserCacheDir()
	}
	if err == nil {
		err = errors.Join(os.Setenv("TMPDIR", dir), os.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache")))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // best effort
	if signal.Ignored(unix.SIGHUP) {
		// Under nohup. What tests start isn't to inherit that.
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	status := c.M.Run()
	left := mountsBeneath(dir)
	for _, dir := range left {
		fmt.Fprintln(os.Stderr, "FAIL: left mounted:", dir)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	if len(left) > 0 {
		return 1
	}
	return status
}

// The scripts: every verb, every bad input, each with its stdout, stderr and
// exit status.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(name string) (bool, error) {
			missing, err := lack(name)
			return missing == "" && err == nil, err
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("LC_ALL", "C")
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("PROJECT", filepath.Join(env.WorkDir, "project"))
			env.Defer(func() {
				for _, dir := range mountsBeneath(env.WorkDir) {
					_ = unix.Unmount(dir, unix.MNT_DETACH)
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code":    cmdCode,
			"mounted": cmdMounted,
			"dead":    cmdDead,
		},
	})
}

// cmdCode runs a program that must end with the given status:
// code 2 rootfs frobnicate
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code STATUS PROGRAM [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// cmdMounted waits until a directory is one of our mounts, or with ! until it
// is none.
func cmdMounted(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] mounted DIR")
	}
	poll(ts, func() bool {
		m, err := mountAt(ts.MkAbs(args[0]))
		ts.Check(err)
		return neg != (m != nil && m.Type == fsType)
	})
}

// cmdDead kills the daemon of the project in a directory.
func cmdDead(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: dead PROJECT MNT")
	}
	text := ts.ReadFile(filepath.Join(args[0], ".rootfs/mount.json"))
	_, rest, _ := strings.Cut(text, `"pid":`)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, ",", 2)[0]))
	ts.Check(err)
	ts.Check(unix.Kill(pid, unix.SIGKILL))
	poll(ts, func() bool {
		_, dead, _ := resolveMount(ts.MkAbs(args[1]))
		return dead
	})
}

func poll(ts *testscript.TestScript, done func() bool) {
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("it didn't come in 10 seconds")
}

// mountsBeneath lists the mounts below a directory, the last made first.
func mountsBeneath(dir string) []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	var dirs []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(unescape(f[4]), dir+"/") {
			dirs = append([]string{unescape(f[4])}, dirs...)
		}
	}
	return dirs
}
