package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// squashing is a project whose checkpoints are dropped by a gc that is killed.
type squashing struct {
	t       *testing.T
	project string
	took    time.Duration       // an undisturbed gc
	was     map[string][]string // the tree at each checkpoint that stays, and at "": now
}

// A gc that is killed at any moment shows the same tree, and the next one ends
// what it began.
func TestKilledSquashChangesNothing(t *testing.T) {
	need(t, "fuse")
	s := &squashing{t: t, project: layProject(t, `
-- user/sysconfig/a/b/lower --
-- user/sysconfig/a/c --
-- user/sysconfig/b/a/c --
-- user/sysconfig/c --
`)}
	s.edit()
	began := time.Now()
	rootfs(t, s.project, "gc")
	s.took = time.Since(began)
	kills, cut := crashes("ROOTFS_CRASHES", 10), 0
	for i := range kills {
		if i%4 == 0 { // or one is at its end, with nothing to do
			s.edit()
		}
		if s.kill() {
			cut++
		}
		s.compare(fmt.Sprintf("after kill %d", i+1))
	}
	rootfs(t, s.project, "gc", "--all")
	s.was = map[string][]string{"": s.was[""]}
	s.compare("without checkpoints")
	// The newest edits and the format of them all.
	if left, err := os.ReadDir(filepath.Join(s.project, ".rootfs/edits")); err != nil || len(left) != 2 {
		t.Errorf("the edits have %v in them (%v)", left, err)
	}
	t.Logf("%d of %d were killed before their end, after at most %v", cut, kills, s.took.Round(time.Millisecond))
}

// edit makes checkpoints with random edits between them, of which one has a
// name, and says what they show.
func (s *squashing) edit() {
	s.t.Helper()
	mnt, umount := mountProject(s.t, s.project)
	for _, name := range []string{"", "kept", "", ""} {
		sh(s.t, mnt, strings.Join(squashedEdits(40), "\n"))
		args := []string{"checkpoint"}
		if name != "" {
			args = append(args, name)
		}
		rootfs(s.t, s.project, args...)
	}
	sh(s.t, mnt, strings.Join(squashedEdits(10), "\n"))
	umount()
	s.was = map[string][]string{"": treeAt(s.t, s.project, "")}
	for _, id := range s.named() {
		s.was[id] = treeAt(s.t, s.project, id)
	}
}

// squashedEdits are shell commands. Many of them can't be done; that leaves
// the tree as it is.
func squashedEdits(n int) (script []string) {
	path := func() string {
		names := []string{"a", "b", "c", "d"}
		var parts []string
		for range 1 + rand.N(3) {
			parts = append(parts, names[rand.N(len(names))])
		}
		return strings.Join(parts, "/")
	}
	for range n {
		from, to := path(), path()
		script = append(script, "{ "+[]string{
			fmt.Sprintf("echo %d >>%s", rand.N(100), from),
			fmt.Sprintf("echo %d >%s", rand.N(100), from),
			"mkdir -p " + from,
			"rm -r " + from,
			fmt.Sprintf("rm -r %s && mkdir %[1]s", from), // often opaque
			fmt.Sprintf("mv -T %s %s", from, to),         // redirects
			fmt.Sprintf("mv -T --exchange %s %s", from, to),
			fmt.Sprintf("ln %s %s", from, to),
			fmt.Sprintf("ln -s target %s", from),
			fmt.Sprintf("chmod %o %s", 0o700|rand.N(0o100), from),
		}[rand.N(10)]+"; } 2>/dev/null || :")
	}
	return script
}

// named are the checkpoints that a gc keeps.
func (s *squashing) named() (ids []string) {
	s.t.Helper()
	p, err := overlay.Find(s.project, "")
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := p.Checkpoints()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range all {
		if c.Name != "" {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// kill starts a gc and kills it, at a random moment; false when it had ended.
func (s *squashing) kill() bool {
	s.t.Helper()
	cmd := exec.Command("rootfs", "-C", s.project, "gc", "-q")
	cmd.Stderr = s.t.Output()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	time.Sleep(rand.N(s.took))
	_ = cmd.Process.Kill() // it may have ended
	err := cmd.Wait()
	if status := cmd.ProcessState; status.ExitCode() > 0 {
		s.t.Fatalf("gc: %v", err)
	}
	return err != nil
}

func (s *squashing) compare(when string) {
	s.t.Helper()
	_, umount := mountProject(s.t, s.project) // which clears up
	umount()
	for id, want := range s.was {
		if got := treeAt(s.t, s.project, id); !slices.Equal(got, want) {
			s.t.Fatalf("%s, checkpoint %q:\n%s", when, id, crashDiff(want, want, got))
		}
	}
}
