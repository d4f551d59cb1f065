package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// crashes is how many crashes a test makes.
func crashes(variable string, normally int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return normally
}

// crashesAProject is how often one project is crashed, before the next one
// starts anew: its checkpoints add up.
const crashesAProject = 100

// A daemon that is killed at any moment loses nothing of what it has answered
// for and leaves nothing half done, and the project is mounted again at once.
func TestKilledDaemonLosesNothing(t *testing.T) {
	need(t, "fuse")
	var gone, again []time.Duration
	edits := 0
	for left := crashes("ROOTFS_CRASHES", 10); left > 0; left -= crashesAProject {
		c := newCrashing(t)
		c.crash = func() error {
			err := killDaemon(c.project)
			killed := time.Now()
			err = errors.Join(err, awaitDaemonsEnd(c.project))
			gone = append(gone, time.Since(killed))
			return err
		}
		c.begin()
		for range min(left, crashesAProject) {
			c.round()
		}
		c.end()
		again = append(again, c.again...)
		edits += c.edits
	}
	t.Logf("%d crashes, %d edits; gone after %s; mounted again after %s", len(again), edits, parts(gone), parts(again))
	// The longest says more about the machine's load.
	if half := again[len(again)/2]; half > time.Second {
		t.Errorf("mounting again took %v", half)
	}
}

// parts sorts durations and says how they are distributed.
func parts(d []time.Duration) string {
	slices.Sort(d)
	part := func(p float64) time.Duration { return d[int(p*float64(len(d)-1))].Round(time.Millisecond) }
	return fmt.Sprintf("%v (half), %v (99 of 100), %v (longest)", part(.5), part(.99), part(1))
}

// crashing is a project whose daemon dies again and again.
type crashing struct {
	t       *testing.T
	project string
	crash   func() error // kills the daemon
	cut     *atomic.Bool // that the power is off, which stops the daemon's host; or nil

	rounds  int
	edits   int
	fresh   []*crashWriter // of the next round
	writers []*crashWriter // of all rounds until now
	again   []time.Duration
}

const writersARound = 3

func newCrashing(t *testing.T) *crashing {
	t.Helper()
	return &crashing{t: t, project: layProject(t, `
-- user/sysconfig/etc/passwd --
`)}
}

// lay makes the next round's writers, and what is theirs in a layer.
func (c *crashing) lay() {
	c.t.Helper()
	c.fresh = nil
	for i := range writersARound {
		name := fmt.Sprintf("r%d-%d", c.rounds, i)
		state, err := layCrashLayer(filepath.Join(c.project, "user/sysconfig", name))
		if err != nil {
			c.t.Fatal(err)
		}
		c.fresh = append(c.fresh, &crashWriter{
			dir: filepath.Join(c.project, "mnt", name), states: []crashState{state}, cut: c.cut,
		})
	}
}

// begin mounts.
func (c *crashing) begin() {
	c.t.Helper()
	c.lay()
	rootfs(c.t, c.project, "mount", "mnt")
	c.t.Cleanup(func() { _ = unix.Unmount(filepath.Join(c.project, "mnt"), unix.MNT_DETACH) })
}

// round lets writers edit until the daemon dies, mounts again and checks
// what they left.
func (c *crashing) round() {
	c.t.Helper()
	c.rounds++
	writers := c.fresh
	var work sync.WaitGroup
	for _, w := range writers {
		work.Go(func() {
			err := w.run()
			log, _ := os.ReadFile(filepath.Join(c.project, ".rootfs/mount.log"))
			// EIO is the kernel's word for a dying mount, too; ours is logged. A
			// host without power becomes read-only.
			died := lostDaemon(err) || errors.Is(err, unix.EIO) && len(log) == 0
			if c.cut != nil {
				died = died || errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS)
			}
			if !died {
				c.t.Errorf("%s: an edit failed before the crash: %v\n%s", w.dir, err, log)
			}
		})
	}
	if rand.N(5) == 0 {
		work.Go(func() { _ = exec.Command("rootfs", "-C", c.project, "checkpoint").Run() })
	}
	time.Sleep(rand.N(100 * time.Millisecond))
	if err := c.crash(); err != nil {
		c.t.Fatal(err)
	}
	work.Wait()
	c.lay()
	killed := time.Now()
	rootfs(c.t, c.project, "mount", "mnt")
	c.again = append(c.again, time.Since(killed))
	for _, w := range writers {
		c.edits += w.edits
	}
	c.check(writers)
	c.writers = append(c.writers, writers...)
}

func (c *crashing) check(writers []*crashWriter) {
	c.t.Helper()
	for _, w := range writers {
		if err := w.check(); err != nil {
			c.t.Fatalf("crash %d: %v", c.rounds, err)
		}
	}
}

// end checks that what was there after each crash still is.
func (c *crashing) end() {
	c.t.Helper()
	c.check(c.writers)
	rootfs(c.t, c.project, "umount", "mnt")
}

// killDaemon kills the daemon of a project.
func killDaemon(project string) error {
	pid, err := daemonPID(project)
	if err != nil {
		return err
	}
	return unix.Kill(pid, unix.SIGKILL)
}

func daemonPID(project string) (int, error) {
	text, err := os.ReadFile(filepath.Join(project, ".rootfs/mount.json"))
	if err != nil {
		return 0, err
	}
	var s mountState
	err = json.Unmarshal(text, &s)
	return s.PID, err
}

// awaitDaemonsEnd returns when no daemon serves the project.
func awaitDaemonsEnd(project string) error {
	p, err := overlay.Find(project, "")
	if err != nil {
		return err
	}
	state, wait, err := readState(p)
	if err != nil || state == nil {
		return err
	}
	return wait(10 * time.Second)
}

// The check after a crash can fail: on each kind of loss.
func TestCrashCheckSeesLosses(t *testing.T) {
	need(t, "xattr")
	for _, loss := range []string{
		`rm a`, `rm -r d`, `: >b`, `printf x | dd of=b bs=1 seek=9 conv=notrunc status=none`, `head -c 100 /dev/zero >>b`,
		`chmod 600 a`, `ln -sf '' s 2>/dev/null || ln -sf b s`, `cp k l; mv l k`, `: >temp`, `mv d e`, `setfattr -n user.note -v x b`,
	} {
		dir := filepath.Join(t.TempDir(), "w")
		state, err := layCrashLayer(dir)
		if err != nil {
			t.Fatal(err)
		}
		w := &crashWriter{dir: dir, states: []crashState{state}, cut: new(atomic.Bool)}
		if err := w.check(); err != nil {
			t.Fatalf("nothing was lost: %v", err)
		}
		sh(t, dir, loss)
		if w.check() == nil {
			t.Errorf("%s: not seen", loss)
		}
	}
}
