package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// The kernel's overlayfs is the judge: the same random operations over the
// same layers, side by side, must get the same answers and leave the same
// trees; ours also after a checkpoint, after kill -9 and after mounting again,
// while exports begin and end, the kernel forgets and descriptors are few.
// ROOTFS_JUDGE_SEQUENCES says how many sequences: make judge.
//
// Known to differ, and not compared:
//   - size, blocks and number of names of directories; the values of inode
//     numbers (which names share an inode is compared); atime and ctime
//   - whether a listing shows a name that is removed while it runs
//   - collapsing and inserting ranges, which FUSE doesn't pass on
//   - set-gid without group execute after a write by who isn't in the group:
//     FUSE_HANDLE_KILLPRIV_V2 leaves it (include/uapi/linux/fuse.h)

// judgedOperations is the length of a sequence.
const judgedOperations = 50

// judgedBatch is how many sequences, each in a tree of its own, share a mount:
// one of rapid's checks.
const judgedBatch = 10

func TestLikeTheKernelsOverlay(t *testing.T) {
	need(t, "root", "fuse", "overlayfs")
	sequences, seed := 300, "1" // the same ones each time, so that a failure is of what was changed
	if n, err := strconv.Atoi(os.Getenv("ROOTFS_JUDGE_SEQUENCES")); err == nil {
		sequences, seed = n, "0" // others each time
	}
	err := errors.Join(flag.Set("rapid.checks", strconv.Itoa(sequences/judgedBatch)), flag.Set("rapid.seed", seed))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		j := &judgement{t: rt, dir: filepath.Join(t.TempDir(), strconv.Itoa(n))}
		defer j.end()
		j.run()
	})
}

// judgement is one batch.
type judgement struct {
	t         *rapid.T
	dir       string // with the project and the kernel's directories in it
	began     time.Time
	sequences []*sequence
	export    *moment // what an export would be reading now, or nil
}

// sequence is one of a batch.
type sequence struct {
	*judgement
	base         string // its tree
	ours, kernel *side
	done         []string // for the report
}

func (j *judgement) run() {
	for i := range judgedBatch {
		drawLayers(j.t, j.project(), i)
	}
	layers := j.layers()
	j.mountKernel()
	j.mount()
	j.began = time.Now().Add(-20 * time.Millisecond) // the clock of files is a coarse one
	for i := range judgedBatch {
		j.sequences = append(j.sequences, &sequence{
			judgement: j, base: filepath.Join("usr", fmt.Sprintf("s%d", i)), ours: j.side(false), kernel: j.side(true),
		})
	}
	each := func(s string, operations int) {
		for _, q := range j.sequences {
			q.operate(operations)
		}
		j.compare("after operations " + s)
	}
	each("on layers", 20)
	j.command("checkpoint", "moment")
	each("on a checkpoint", 15)
	j.letGo()
	if err := errors.Join(killDaemon(j.project()), awaitDaemonsEnd(j.project())); err != nil {
		j.t.Fatal(err)
	}
	j.command("umount", "mnt") // the dead mount
	j.mount()
	j.compare("after kill -9")
	each("on what a killed daemon left", judgedOperations-20-15)
	j.letGo()
	j.command("umount", "mnt")
	j.mount()
	j.compare("mounted again")
	j.command("umount", "mnt")
	j.command("gc", "--all")
	j.mount()
	j.compare("without its checkpoint")
	j.command("umount", "mnt")
	if diff := differing(layers, j.layers()); diff != "" {
		j.t.Fatalf("the layers were changed:\n%s", diff)
	}
}

func (j *judgement) side(kernel bool) *side {
	if kernel {
		return newSide(filepath.Join(j.dir, "kernel"), j.began)
	}
	return newSide(filepath.Join(j.project(), "mnt"), j.began)
}

func (j *judgement) project() string { return filepath.Join(j.dir, "project") }

// layers is the state of the lower trees.
func (j *judgement) layers() []string {
	lines, err := newSide(filepath.Join(j.project(), "user"), time.Now().Add(time.Hour)).tree(".")
	if err != nil {
		j.t.Fatal(err)
	}
	return lines
}

func (j *judgement) mountKernel() {
	at := func(name string) string { return filepath.Join(j.dir, name) }
	for _, name := range []string{"kernel", "upper", "work", "project/mnt"} {
		if err := os.MkdirAll(at(name), 0o755); err != nil {
			j.t.Fatal(err)
		}
	}
	// The root is the upper directory: it must look like the layers' to begin with.
	var st unix.Stat_t
	if err := unix.Stat(at("project/user/sysconfig"), &st); err != nil {
		j.t.Fatal(err)
	}
	if err := unix.UtimesNano(at("upper"), []unix.Timespec{st.Atim, st.Mtim}); err != nil {
		j.t.Fatal(err)
	}
	options := fmt.Sprintf("index=on,redirect_dir=on,metacopy=off,lowerdir=%s:%s,upperdir=%s,workdir=%s",
		at("project/user/sysconfig"), at("project/user/apps/x"), at("upper"), at("work"))
	if err := unix.Mount("judge", at("kernel"), "overlay", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		j.t.Fatalf("mount overlay: %v", err)
	}
}

func (j *judgement) mount() { j.command("mount", "-o", "allow_other", "mnt") }

// command runs one of our commands. There is a quarter of its limit of
// descriptors for files, and another for directories.
func (j *judgement) command(args ...string) {
	cmd := exec.Command("sh", append([]string{"-c", `ulimit -n 160 && exec rootfs "$@"`, "rootfs", "-C", j.project()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		j.t.Fatalf("rootfs %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// toggleExport begins an export, or ends the one that has begun.
func (j *judgement) toggleExport() (string, error) {
	if m := j.export; m != nil {
		j.export = nil
		return "an export ends", m.close()
	}
	p, err := overlay.Find(j.project(), "")
	if err == nil {
		j.export, err = openMoment(context.Background(), p, &export.Request{Log: slog.New(slog.DiscardHandler)})
	}
	return "an export begins", err
}

func (j *judgement) letGo() {
	if j.export != nil {
		if _, err := j.toggleExport(); err != nil {
			j.t.Error(err)
		}
	}
	for _, q := range j.sequences {
		q.ours.close()
		q.kernel.close()
	}
}

// end unmounts what a failure has left.
func (j *judgement) end() {
	j.letGo()
	_ = unix.Unmount(filepath.Join(j.project(), "mnt"), unix.MNT_DETACH)
	_ = unix.Unmount(filepath.Join(j.dir, "kernel"), unix.MNT_DETACH)
	_ = os.RemoveAll(j.dir)
}

// operate does operations in the sequence's tree.
func (q *sequence) operate(operations int) {
	for range operations {
		d := &drawer{t: q.t}
		err := q.kernel.walk(q.base, func(rel string, st *unix.Stat_t) error {
			if rel != q.base { // which stays
				d.paths = append(d.paths, rel)
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				d.dirs = append(d.dirs, rel)
			}
			return nil
		})
		if err != nil {
			q.t.Fatal(err)
		}
		switch d.n("meanwhile", 80) {
		case 77, 78, 79:
			what, err := q.toggleExport()
			if q.done = append(q.done, what); err != nil {
				q.fail("%s: %v", what, err)
			}
		case 75, 76:
			q.done = append(q.done, "the kernel forgets")
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
				q.t.Fatal(err)
			}
		}
		if len(d.paths) == 0 {
			d.paths = []string{filepath.Join(q.base, judgedNames[0])}
		}
		q.step(d.operation())
	}
	q.compareTree("")
}

func (q *sequence) step(o *operation) {
	want := o.on(q.kernel)
	q.done = append(q.done, fmt.Sprintf("%s: %s", o.text, want))
	if want == "EXDEV" {
		// The kernel's redirects are at most 256 bytes long (fs/overlayfs:
		// OVL_REDIRECT_MAX), and a program has to copy then. Ours do it.
		return
	}
	if got := o.on(q.ours); got != want {
		q.fail("the kernel: %s\nours:       %s", want, got)
	}
}

// fail reports a difference with what led to it.
func (q *sequence) fail(format string, args ...any) {
	text := strings.Join(q.done, "\n") + "\n" + fmt.Sprintf(format, args...)
	q.t.Fatal(strings.ReplaceAll(text, judgedNames[len(judgedNames)-1], "LONG"))
}

// compareTree compares one tree.
func (q *sequence) compareTree(when string) {
	want, err := q.kernel.tree(q.base)
	if err != nil {
		q.fail("%s: overlayfs: %v", when, err)
	}
	got, err := q.ours.tree(q.base)
	if err != nil {
		q.fail("%s: ours: %v", when, err)
	}
	if diff := differing(want, got); diff != "" {
		q.fail("%s:\n%s", when, diff)
	}
}

// compare compares all trees, and what is around them.
func (j *judgement) compare(when string) {
	for _, q := range j.sequences {
		q.compareTree(when)
	}
	(&sequence{judgement: j, base: ".", ours: j.side(false), kernel: j.side(true)}).compareTree(when)
}

// differing shows the lines that only one of two trees has.
func differing(want, got []string) string {
	var b strings.Builder
	for _, l := range want {
		if !slices.Contains(got, l) {
			fmt.Fprintf(&b, "the kernel: %.300s\n", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			fmt.Fprintf(&b, "ours:       %.300s\n", l)
		}
	}
	return b.String()
}

// drawLayers makes two layers with a tree each for the i-th sequence, with the
// owners and modes that plain layers show.
func drawLayers(t *rapid.T, project string, i int) {
	d := &drawer{t: t}
	for _, layer := range []string{"user/apps/x", "user/sysconfig"} {
		base := filepath.Join(project, layer, "usr", fmt.Sprintf("s%d", i))
		if err := os.MkdirAll(base, 0o755); err != nil {
			t.Fatal(err)
		}
		l := &layerDrawer{drawer: d, dirs: []string{base}}
		for range d.n("entries", 12) {
			if err := l.entry(); err != nil {
				t.Fatalf("%s: %v", layer, err)
			}
		}
		// Last, since each new entry changes the time of its directory.
		old := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9 + int64(i), Nsec: 123456789}}
		for _, dir := range append(l.others, l.dirs...) {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir, old, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				t.Fatal(err)
			}
		}
		for up := filepath.Dir(base); up != project; up = filepath.Dir(up) {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, up, old, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// layerDrawer fills a layer.
type layerDrawer struct {
	*drawer
	dirs, files, others []string
}

func (l *layerDrawer) entry() error {
	path := filepath.Join(pick(l.drawer, "dir", l.dirs...), pick(l.drawer, "name", judgedNames...))
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	mode := l.mode() &^ 0o022
	switch kind := l.n("kind", 6); {
	case kind <= 1:
		l.dirs = append(l.dirs, path)
		return cmp.Or(unix.Mkdir(path, 0o755), unix.Chmod(path, mode|0o700))
	case kind == 3 && len(l.files) > 0:
		return os.Link(pick(l.drawer, "linked", l.files...), path)
	case kind == 4:
		l.others = append(l.others, path)
		return os.Symlink(pick(l.drawer, "target", "a", "../b", "c"), path)
	case kind == 5:
		l.others = append(l.others, path)
		return cmp.Or(unix.Mkfifo(path, 0o644), unix.Chmod(path, mode))
	}
	l.files, l.others = append(l.files, path), append(l.others, path)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a layer that lacks something is one, too
	if _, err := f.WriteAt(l.content(), l.offset()); err != nil {
		return err
	}
	if l.n("xattr", 3) == 2 {
		if err := unix.Fsetxattr(int(f.Fd()), "user.a", []byte("lower"), 0); err != nil {
			return err
		}
	}
	return f.Chmod(os.FileMode(mode & 0o777))
}

// The comparison can fail: on answers, and on each field of a tree.
func TestJudgementSeesDifferences(t *testing.T) {
	need(t, "root", "xattr")
	began := time.Now().Add(-20 * time.Millisecond)
	left, right := newSide(t.TempDir(), began), newSide(t.TempDir(), began)
	for _, s := range []*side{left, right} {
		sh(t, s.root, `mkdir d d/e; echo a >f; ln f g; cp f h; ln -s f l; mknod n c 1 2; mkfifo p; touch -hd @1 d d/e f g h l n p .`)
	}
	for _, change := range []string{
		`chmod 700 d`, `chown 1 f`, `chgrp -h 1 l`, `printf b >f; touch -d @1 f`, `touch -d @1.000000001 f`, `touch d`,
		`ln -sf g l; touch -hd @1 l .`, `rm n; mknod n c 1 3; touch -d @1 n .`, `rm p; mknod p b 1 3; touch -d @1 p .`,
		`ln f i; touch -d @1 .`, `rm g; ln h g; touch -d @1 .`, `setfattr -n user.a -v b f`, `setfattr -n trusted.a -v b d`, `rmdir d/e; touch -d @1 d`,
	} {
		sh(t, right.root, change)
		was, err := left.tree(".")
		if err != nil {
			t.Fatal(err)
		}
		is, err := right.tree(".")
		if err != nil {
			t.Fatal(err)
		}
		if differing(was, is) == "" {
			t.Errorf("%s: not seen", change)
		}
		sh(t, left.root, change)
		if was, err = left.tree("."); err != nil || differing(was, is) != "" {
			t.Fatalf("%s: on both, still different: %v\n%s", change, err, differing(was, is))
		}
	}
	stat := op(func(s *side) string { return said(unix.Access(filepath.Join(s.root, "only"), 0)) }, "access")
	sh(t, right.root, `: >only`)
	if a, b := stat.on(left), stat.on(right); a != "ENOENT" || b != "ok" {
		t.Errorf("one has it: %q, the other doesn't: %q", b, a)
	}
}
