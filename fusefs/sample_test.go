package fusefs

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func is(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantErrno(t *testing.T, what string, err error, errno syscall.Errno) {
	t.Helper()
	if !is(err, errno) {
		t.Errorf("%s: got %v, want %v", what, err, errno)
	}
}

func within(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("not within three seconds: %s", what)
}

func lstat(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	check(t, "lstat "+path, unix.Lstat(path, &st))
	return st
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	check(t, "read", err)
	if string(got) != want {
		t.Errorf("%s: got %q, want %q", path, got, want)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	ents, err := os.ReadDir(dir)
	check(t, "readdir", err)
	var got []string
	for _, e := range ents {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", dir, got, want)
	}
}

// sample is the tree that most tests start from.
func sample(t *testing.T, o Options) *mounted {
	return serve(t, project(t, map[string]string{
		"bin/sh":          "#!\n",
		"etc/passwd":      "root:x:0:0\n",
		"etc/group":       "root:x:0:\n",
		"etc/empty/":      "",
		"lib":             "-> usr/lib",
		"usr/lib/libc.so": strings.Repeat("libc", 3000),
	}), o, nil)
}

// closeLater closes f before the mount is unmounted.
func closeLater(t *testing.T, f *os.File) {
	t.Helper()
	t.Cleanup(func() { check(t, "close", f.Close()) })
}
