package fusefs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// A process must not touch a mount that it serves, so each mount here is
// served by this test's binary, run again with a job in its environment; the
// test is the client.

const jobVariable = "FUSEFS_TEST_JOB"

type job struct {
	Project, Mount string
	Options        Options
	Log            string // where requests are logged, "" for nowhere
}

// testSource is how /proc/mounts shows the mounts of these tests.
const testSource = "fusefs-test"

func TestMain(m *testing.M) {
	if j := os.Getenv(jobVariable); j != "" {
		if err := runJob(j); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if left := testMounts(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "left mounted:", left)
		code = 1
	}
	os.Exit(code)
}

func testMounts() (dirs []string) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == testSource {
			dirs = append(dirs, f[1])
		}
	}
	return dirs
}

func runJob(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	out := os.Stderr
	level := slog.LevelInfo
	if j.Log != "" {
		f, err := os.Create(j.Log)
		if err != nil {
			return err
		}
		out, level, j.Options.Debug = f, slog.LevelDebug, true
	}
	j.Options.Logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	p, err := overlay.Find(j.Project, "")
	if err != nil {
		return err
	}
	tree, err := overlay.Open(p, overlay.Options{Logger: j.Options.Logger})
	if err != nil {
		return err
	}
	s, err := Mount(tree, j.Mount, j.Options)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-s.Done()
	return tree.Close()
}

// need skips the test when the machine lacks a capability, unless
// ROOTFS_TEST_REQUIRE names it or says "all".
func need(t *testing.T, capability string) {
	t.Helper()
	var have bool
	switch capability {
	case "fuse":
		f, err := os.OpenFile(deviceFile, os.O_RDWR, 0)
		if have = err == nil; have {
			_ = f.Close()
		}
	case "root":
		have = os.Getuid() == 0
	case "fusermount3": // for users, so the device must be open to them
		_, err := exec.LookPath("fusermount3")
		fi, devErr := os.Stat(deviceFile)
		have = err == nil && devErr == nil && fi.Mode()&0o006 == 0o006
	}
	if have {
		return
	}
	required := strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ",")
	if slices.Contains(required, capability) || slices.Contains(required, "all") {
		t.Fatalf("%s is required and missing", capability)
	}
	t.Skipf("SKIPPED: this machine lacks %s", capability)
}

// project makes a project with one package of the given files: a path that
// ends in a slash is a directory, content that starts with "-> " a symlink.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "user/apps/base")
	for path, content := range files {
		at := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, at)
		} else if strings.HasSuffix(path, "/") {
			err = os.MkdirAll(at, 0o755)
		} else {
			err = os.WriteFile(at, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mounted is a mount that another process serves.
type mounted struct {
	t    *testing.T
	dir  string // where it is
	log  string
	cmd  *exec.Cmd
	gone chan error // the process's end
}

// serve mounts a project and returns the mount. as, when not nil, is who the
// server runs as.
func serve(t *testing.T, projectDir string, o Options, as *syscall.Credential) *mounted {
	t.Helper()
	need(t, "fuse")
	o.FSName, o.Logger = testSource, nil
	m := &mounted{t: t, dir: t.TempDir(), gone: make(chan error, 1)}
	m.log = filepath.Join(t.TempDir(), "log")
	if as != nil {
		check(t, "chown", os.Chown(m.dir, int(as.Uid), int(as.Gid)))
	}
	if as != nil || o.AllowOther {
		// t.TempDir is for its owner alone.
		for dir := m.dir; dir != os.TempDir(); dir = filepath.Dir(dir) {
			check(t, "chmod", os.Chmod(dir, 0o755))
		}
	}
	j := job{Project: projectDir, Mount: m.dir, Options: o, Log: m.log}
	if as != nil {
		j.Log = ""
	}
	text, err := json.Marshal(&j)
	if err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line == "ready\n"
		m.gone <- m.cmd.Wait()
	}()
	t.Cleanup(func() {
		m.stop()
		if stderr.Len() > 0 {
			t.Errorf("the server said: %s", stderr.Bytes())
		}
	})
	select {
	case ok := <-ready:
		if !ok {
			t.Fatal("the server could not mount")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the server is not ready")
	}
	return m
}

// stop unmounts and waits for the server's end.
func (m *mounted) stop() {
	for range 50 {
		if err := unix.Unmount(m.dir, 0); err != unix.EBUSY {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if slices.Contains(testMounts(), m.dir) {
		m.t.Errorf("%s is busy", m.dir)
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
	}
	m.waitEnd()
}

func (m *mounted) waitEnd() {
	m.t.Helper()
	select {
	case err := <-m.gone:
		if err != nil {
			m.t.Errorf("the server ended with %v", err)
		}
		m.gone <- err
	case <-time.After(20 * time.Second):
		m.t.Errorf("the server still runs after unmounting")
		_ = m.cmd.Process.Kill()
	}
}

// path returns a path in the mount.
func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

// requests counts the requests that the kernel has sent, by name.
func (m *mounted) requests() map[string]int {
	m.t.Helper()
	b, err := os.ReadFile(m.log)
	if err != nil {
		m.t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(b)) {
		// msg="rx 12: LOOKUP n1 …"
		if _, rest, ok := strings.Cut(line, `msg="rx `); ok {
			count[strings.Fields(rest)[1]]++
		}
	}
	return count
}
