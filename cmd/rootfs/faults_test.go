package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const checkpointCase = "checkpoint"

// faultCase is an edit, of which each host call is made to fail in turn.
type faultCase struct {
	name    string
	prepare func(dir string) error // nil for none
	do      func(dir string) error
}

func in(dir string, names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }

func appendTo(name string) func(dir string) error {
	return func(dir string) error {
		f, err := os.OpenFile(in(dir, name), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("appended")
		return errors.Join(err, f.Close())
	}
}

func renaming(from, to string, flags uint) func(dir string) error {
	return func(dir string) error {
		return unix.Renameat2(unix.AT_FDCWD, in(dir, from), unix.AT_FDCWD, in(dir, to), flags)
	}
}

func making(path string, mode os.FileMode) func(dir string) error {
	return func(dir string) error {
		f, err := os.OpenFile(in(dir, path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func makingDir(path string) func(dir string) error {
	return func(dir string) error { return os.Mkdir(in(dir, path), 0o755) }
}

func removing(path string) func(dir string) error {
	return func(dir string) error { return os.Remove(in(dir, path)) }
}

func linking(from, to string) func(dir string) error {
	return func(dir string) error { return os.Link(in(dir, from), in(dir, to)) }
}

func setting(path string, do func(path string) error) func(dir string) error {
	return func(dir string) error { return do(in(dir, path)) }
}

func all(steps ...func(dir string) error) func(dir string) error {
	return func(dir string) error {
		for _, step := range steps {
			if err := step(dir); err != nil {
				return err
			}
		}
		return nil
	}
}

func chmod(mode uint32) func(string) error {
	return func(path string) error { return unix.Chmod(path, mode) }
}

func disown(path string) error { return os.Lchown(path, 1000, 1000) }

func note(path string) error { return unix.Lsetxattr(path, "user.note", []byte("n"), 0) }

// What faultLayer lays: files a, b, k (a's second name), a symlink s, a
// directory d with a file, and an empty one.
var faultCases = []faultCase{
	{"copy up", nil, appendTo("a")},
	{"copy up in a directory", nil, appendTo("d/a")},
	{"copy up a file of two names", nil, appendTo("k")},
	{"truncate a lower file", nil, setting("b", func(path string) error { return os.Truncate(path, 2) })},
	{"chmod a lower file", nil, setting("b", chmod(0o4755))},
	{"chmod a lower directory", nil, setting("d", chmod(0o1777))},
	{"chown a lower symlink", nil, setting("s", disown)},
	{"chmod to what the host can't hold", making("n", 0o644), setting("n", chmod(0o4000))},
	{"chmod to what it can", all(making("n", 0o644), setting("n", chmod(0o4000))), setting("n", chmod(0o755))},
	{"chown of a recorded file", all(making("n", 0o644), setting("n", chmod(0o4711))), setting("n", disown)},
	{"set a time", nil, setting("b", func(path string) error { return os.Chtimes(path, time.Unix(9, 0), time.Unix(9, 9)) })},
	{"set an attribute", nil, setting("b", note)},
	{"remove an attribute", setting("b", note), setting("b", func(path string) error { return unix.Lremovexattr(path, "user.note") })},
	{"create", nil, making("n", 0o644)},
	{"create what is recorded", nil, making("n", 0o200)},
	{"create on a whiteout", removing("b"), making("b", 0o644)},
	{"make a directory", nil, makingDir("n")},
	{"make a directory on a whiteout", removing("empty"), makingDir("empty")},
	{"symlink", nil, func(dir string) error { return os.Symlink("target", in(dir, "n")) }},
	{"long symlink", nil, func(dir string) error { return os.Symlink(strings.Repeat("x/", 1000), in(dir, "n")) }},
	{"device", nil, func(dir string) error { return unix.Mknod(in(dir, "n"), unix.S_IFIFO|0o600, 0) }},
	{"link a lower file", nil, linking("b", "n")},
	{"link a file of two names", nil, linking("a", "n")},
	{"link an upper file", making("n", 0o644), linking("n", "m")},
	{"link on a whiteout", all(making("n", 0o644), removing("b")), linking("n", "b")},
	{"unlink a lower file", nil, removing("b")},
	{"unlink one of two names", nil, removing("k")},
	{"unlink an upper file", making("n", 0o644), removing("n")},
	{"unlink a copied file", appendTo("b"), removing("b")},
	{"rmdir a lower directory", nil, removing("empty")},
	{"rmdir an upper directory", makingDir("n"), removing("n")},
	{"rmdir a merged directory of whiteouts", removing("d/a"), removing("d")},
	{"rename a lower file", nil, renaming("b", "n", 0)},
	{"rename onto a lower file", making("n", 0o644), renaming("n", "b", 0)},
	{"rename onto one of two names", making("n", 0o644), renaming("n", "k", 0)},
	{"rename a lower directory", nil, renaming("d", "n", 0)},
	{"rename a directory onto one of whiteouts", all(removing("d/a"), makingDir("n")), renaming("n", "d", 0)},
	{"rename a directory onto a whiteout", all(removing("b"), makingDir("n")), renaming("n", "b", 0)},
	{"exchange", nil, renaming("b", "d", unix.RENAME_EXCHANGE)},
	{checkpointCase, making("n", 0o644), func(dir string) error {
		return exec.Command("rootfs", "-C", filepath.Dir(filepath.Dir(dir)), "checkpoint").Run()
	}},
}

// fault is what is made to fail, and how.
type fault struct {
	errno unix.Errno
	calls []uintptr
}

// allFaults tells to have calls fail, too, that only open or look: that takes
// minutes.
func allFaults() bool { return os.Getenv("ROOTFS_FAULTS") == "all" }

func faults() []fault {
	f := []fault{{unix.ENOSPC, changingCalls}}
	if allFaults() {
		f = append(f, fault{unix.EMFILE, openingCalls}, fault{unix.EIO, slices.Concat(openingCalls, changingCalls, readingCalls)})
	}
	return f
}

// Each host call of each edit fails in turn: the edit says so and leaves the
// tree as it was, now and after mounting again; and it can be done then.
func TestFailingHostCallsChangeNothing(t *testing.T) {
	need(t, "root", "fuse", "seccomp")
	f := newFaulty(t)
	for i := range faultCases {
		for _, fault := range faults() {
			most := 500
			if faultCases[i].name == checkpointCase {
				most = 40 // each checkpoint costs the next one a call more
			}
			for n := 1; n <= most && f.attempt(&faultCases[i], fault, n); n++ {
				f.failures++
			}
		}
	}
	f.checkAgain()
	t.Logf("%d host calls failed", f.failures)
}

// faulty is a project that is mounted by a supervised daemon.
type faulty struct {
	t          *testing.T
	project    string
	supervisor *supervisor
	used       int // of the folders
	failures   int

	old  map[string]failedEdit // by folder
	done map[string]string     // folders of edits that were done, and of which case
	want map[string][]string   // what a case makes
}

type failedEdit struct {
	what  string
	lines []string

	// looked tells that a call failed that only opens or looks. An entry that
	// could not be opened or looked at was made and removed, which its
	// directory's time tells.
	looked bool
}

// faultFolders is how many edits can be tried.
func faultFolders() int {
	if allFaults() {
		return 4000
	}
	return 700
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	f := &faulty{
		t: t, project: layProject(t, "-- user/sysconfig/etc/passwd --\n"),
		old: make(map[string]failedEdit), done: make(map[string]string), want: make(map[string][]string),
	}
	for i := range faultFolders() {
		if err := layFaultFolder(in(f.project, "user/sysconfig", strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("rootfs", "-C", f.project, "mount", "-f", "mnt")
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // signals that make calls come twice
	cmd.Stderr = t.Output()
	start, err := superviseCommand(cmd)
	if err == nil {
		f.supervisor, err = start()
	}
	if err != nil {
		t.Fatal(err)
	}
	mnt := in(f.project, "mnt")
	t.Cleanup(func() {
		_ = unix.Unmount(mnt, unix.MNT_DETACH)
		_ = cmd.Wait()
	})
	for range 1000 {
		if m, err := mountAt(mnt); err == nil && m != nil {
			return f
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("not mounted within 10 seconds")
	return nil
}

// layFaultFolder makes a layer's part of an edit's folder.
func layFaultFolder(dir string) error {
	err := errors.Join(os.MkdirAll(in(dir, "d"), 0o755), os.Mkdir(in(dir, "empty"), 0o755), os.Symlink("a", in(dir, "s")))
	for _, name := range []string{"a", "b", "d/a"} {
		err = errors.Join(err, os.WriteFile(in(dir, name), []byte("content of "+name), 0o644))
	}
	return errors.Join(err, os.Link(in(dir, "a"), in(dir, "k")))
}

// attempt does an edit whose n-th host call fails; false when it has no n-th.
func (f *faulty) attempt(c *faultCase, fault fault, n int) bool {
	f.t.Helper()
	if f.used == faultFolders() {
		f.t.Fatalf("%s: more than %d host calls", c.name, faultFolders())
	}
	dir := in(f.project, "mnt", strconv.Itoa(f.used))
	f.used++
	if c.prepare != nil {
		if err := c.prepare(dir); err != nil {
			f.t.Fatalf("%s: prepare: %v", c.name, err)
		}
	}
	before := f.look(dir)
	f.supervisor.failAt(n, fault.calls, fault.errno)
	err := c.do(dir)
	hit := f.supervisor.failed()
	what := fmt.Sprintf("%s, %v at host call %d (system call %d)", c.name, fault.errno, n, hit)
	if hit == 0 && err != nil {
		f.t.Fatalf("%s: nothing failed, and it did: %v", c.name, err)
	}
	after := f.look(dir)
	if err != nil {
		if !slices.Equal(before, after) {
			f.t.Errorf("%s: %v; and it changed\n%s", what, err, crashDiff(before, before, after))
		}
		if n%2 == 0 {
			f.old[dir] = failedEdit{what, after, !slices.Contains(changingCalls, hit)}
			return true
		}
		if err := c.do(dir); err != nil {
			f.t.Errorf("%s: it can't be done any more: %v", what, err)
			return true
		}
	}
	f.done[dir] = c.name
	if hit == 0 || c.name == checkpointCase {
		f.want[c.name] = withoutTimes(f.look(dir))
	}
	return hit != 0
}

// look describes a folder, a line an entry, which ends with its time.
func (f *faulty) look(dir string) []string {
	f.t.Helper()
	s, err := readCrashState(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	lines := append(s.lines(), ".")
	for i, line := range lines {
		var st unix.Stat_t
		path, _, _ := strings.Cut(line, " ")
		if err := unix.Lstat(in(dir, path), &st); err != nil {
			f.t.Fatal(err)
		}
		lines[i] += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	return lines
}

func withoutTimes(lines []string) []string {
	cut := make([]string, len(lines))
	for i, line := range lines {
		cut[i] = line[:strings.LastIndexByte(line, ' ')]
	}
	return cut
}

// checkAgain mounts again and looks at all that was edited.
func (f *faulty) checkAgain() {
	f.t.Helper()
	rootfs(f.t, f.project, "umount", "mnt")
	rootfs(f.t, f.project, "mount", "mnt")
	for dir, edit := range f.old {
		got := f.look(dir)
		if slices.Equal(got, edit.lines) {
			continue
		}
		if edit.looked && slices.Equal(withoutTimes(got), withoutTimes(edit.lines)) {
			continue
		}
		f.t.Errorf("%s: it shows after mounting again\n%s", edit.what, crashDiff(edit.lines, edit.lines, got))
	}
	for dir, name := range f.done {
		if got, want := withoutTimes(f.look(dir)), f.want[name]; !slices.Equal(got, want) {
			f.t.Errorf("%s, done in the end, and not as ever\n%s", name, crashDiff(want, want, got))
		}
	}
	rootfs(f.t, f.project, "umount", "mnt")
}
