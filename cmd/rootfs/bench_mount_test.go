//go:build bench

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmark of the mount: make bench-mount. The filesystems take turns
// within a round; every figure is the median of all rounds. What is warm has
// been done just before, on the same mount. ROOTFS_BENCH_WORK and
// ROOTFS_BENCH_AMONG choose some of the works and of the filesystems, each by a
// regular expression; ROOTFS_BENCH_ROUNDS is for a quick look.

// work is something that people do in a mount.
type work struct {
	name string

	// fresh has each measurement made on a mount of its own. Other works share
	// one, and have been done once on it.
	fresh bool

	// disk has each measurement made on a mount of its own whose new files come
	// onto a new ext4. One that is in use avoids for minutes the inodes that were
	// freed (recently_deleted in fs/ext4/ialloc.c), so whoever creates files pays
	// for what others have deleted, up to twice the time.
	disk bool

	// warm has it done once more right before each measurement. The round
	// before won't do: some kernels take back what wasn't used for a minute
	// (DAMON), which is less than a round of all filesystems takes.
	warm bool

	before func(b *mountBench, t *testing.T, m *mounted) // each time
	run    func(b *mountBench, t *testing.T, m *mounted) (seconds float64)

	// Our targets: how many times faster than fuse-overlayfs at least, and how
	// many times the time of the kernel's overlayfs at most.
	faster, slower float64
}

var works = []work{
	{name: "first walk with sizes", fresh: true, before: warmHost, run: child("walk", "."), faster: 2, slower: 2},
	{name: "warm walk with sizes", warm: true, run: child("walk", "."), faster: 2, slower: 0.8},
	{name: "warm tar c", warm: true, run: script(`cd "$1" && tar --exclude=./room -cf - . | cat >/dev/null`), faster: 5, slower: 0.8},
	{name: "open, read, close 8,000 files", warm: true, run: child("open", "."), faster: 5, slower: 0.8},
	{name: "git status", warm: true, before: ownIndex, run: script(`git status --porcelain`), faster: 2, slower: 0.7},
	{name: "compile 500 files", before: sources, run: script(`make -s -j2 -C "$2/src"`), faster: 1.2, slower: 1.1},
	{name: "create 20,000 files", disk: true, before: empty, run: child("create", "room/small"), faster: 2, slower: 3},
	{name: "delete 20,000 files", disk: true, before: created, run: child("delete", "room/small"), faster: 2, slower: 3},
	{name: "write 1 GiB, fsync", before: empty, run: child("write", "room/file"), faster: 1, slower: 1.3},
	{name: "4 KiB writes, 256 MiB", before: empty, run: child("small", "room/file"), faster: 5, slower: 1.3},
	{name: "read 512 MiB, warm, 4 times", warm: true, before: largeFile, run: child("read", "room/large"), faster: 1, slower: 1.1},
	{name: "random 4 KiB reads, warm", warm: true, before: largeFile, run: child("random", "room/large"), faster: 1, slower: 1.1},
}

// mountBench is one run of the benchmark.
type mountBench struct {
	dir    string // for all that is kept between runs
	tree   string
	files  string // the list for openListed
	rounds int

	indexed map[*mounted]bool // git's index has its inode numbers
}

// samples are the measurements of one work on one filesystem.
type samples struct {
	Seconds []float64 `json:"seconds"`
	CPU     []float64 `json:"daemon_cpu_seconds"`
	RSS     []float64 `json:"daemon_rss_mib,omitempty"` // where the mount is fresh
}

func TestBenchMount(t *testing.T) {
	dir := benchDir(t)
	need(t, "root", "fuse", "overlayfs", "git", "cc")
	b := &mountBench{
		dir: filepath.Join(dir, "mount"), tree: filepath.Join(dir, "large"),
		rounds: benchRounds, indexed: make(map[*mounted]bool),
	}
	if n, err := strconv.Atoi(os.Getenv("ROOTFS_BENCH_ROUNDS")); err == nil {
		b.rounds = n
	}
	b.prepare(t)
	among, chosen := chosenBy(t, "ROOTFS_BENCH_AMONG"), chosenBy(t, "ROOTFS_BENCH_WORK")
	all := make(map[string]map[string]*samples)
	shared := make(map[string]*mounted)
	for i := range works {
		w := &works[i]
		if !chosen(w.name) {
			continue
		}
		all[w.name] = b.measure(t, w, shared, among)
		fmt.Println(row(w, all[w.name]))
	}
	for _, m := range shared {
		m.close()
	}
	entries, size := measure(t, b.tree)
	fmt.Printf("\n%d entries, %d MiB, %d processors; seconds, medians of %d\n\n%s", entries, size>>20, runtime.NumCPU(), b.rounds, heading)
	for i := range works {
		if results := all[works[i].name]; results != nil {
			fmt.Println(row(&works[i], results))
		}
	}
	if walk := all[works[0].name]; walk != nil {
		reportMemory(walk)
	}
	line, err := json.Marshal(map[string]any{"entries": entries, "bytes": size, "load": loadAverage(t), "works": all})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\njson %s\n", line)
}

// chosenBy returns whether a name is among those that the environment chooses.
func chosenBy(t *testing.T, env string) func(name string) bool {
	t.Helper()
	re, err := regexp.Compile(os.Getenv(env))
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return re.MatchString
}

func loadAverage(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(sh(t, ".", `cat /proc/loadavg`))
}

// measure does one work on each filesystem, in turns.
func (b *mountBench) measure(t *testing.T, w *work, shared map[string]*mounted, among func(string) bool) map[string]*samples {
	t.Helper()
	all := make(map[string]*samples)
	for round := range b.rounds + 1 { // the first only warms the caches
		for _, fs := range filesystems {
			alone := w.fresh || w.disk
			if !among(fs.name) || round == 0 && (alone || w.warm) {
				continue
			}
			m := shared[fs.name]
			if alone {
				m = b.mount(t, fs, w.disk)
			} else if m == nil {
				m = b.mount(t, fs, false)
				shared[fs.name] = m
			}
			if w.before != nil {
				w.before(b, t, m)
			}
			if w.warm {
				w.run(b, t, m)
			}
			cpu := m.cpu(t)
			took := w.run(b, t, m)
			cpu = m.cpu(t) - cpu
			if all[fs.name] == nil {
				all[fs.name] = new(samples)
			}
			s := all[fs.name]
			if round > 0 {
				s.Seconds, s.CPU = append(s.Seconds, took), append(s.CPU, cpu)
			}
			if alone {
				s.RSS = append(s.RSS, m.rss(t))
				m.close()
			}
		}
	}
	return all
}

// mount mounts in a folder of its own, on the filesystem that has the tree or on
// a new one.
func (b *mountBench) mount(t *testing.T, fs filesystem, disk bool) *mounted {
	t.Helper()
	dir, err := os.MkdirTemp(b.dir, "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeUnmounted(t, dir) }) // after the mount's own
	if !disk {
		return fs.mount(t, b.tree, dir)
	}
	release := newDisk(t, dir)
	m := fs.mount(t, b.tree, dir)
	end := m.close
	m.close = func() { end(); release() }
	return m
}

// newDisk mounts a new ext4, in a file, on dir. release takes it away.
func newDisk(t *testing.T, dir string) (release func()) {
	t.Helper()
	image := dir + ".img"
	release = sync.OnceFunc(func() {
		endMount(t, dir)
		if err := os.Remove(image); err != nil {
			t.Error(err)
		}
	})
	sh(t, ".", `truncate -s 2G "$1"
		mkfs.ext4 -q -N 65536 -E lazy_itable_init=0,lazy_journal_init=0 "$1"
		mount -o loop "$1" "$2"`, image, dir)
	t.Cleanup(release)
	return release
}

// removeUnmounted removes what a filesystem has left, if nothing is mounted
// there any more.
func removeUnmounted(t *testing.T, dir string) {
	t.Helper()
	if left := mountsBeneath(dir); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// prepare makes what the works need, once: the list of small files, and a
// repository of the kernel's sources whose data lies outside of the tree, which
// is then the same for all.
func (b *mountBench) prepare(t *testing.T) {
	t.Helper()
	b.files = filepath.Join(b.dir, "files")
	sh(t, ".", `mkdir -p "$1"; cd "$2"
		[ -e "$1/files" ] || find usr/src -type f -size -17 | LC_ALL=C sort | head -n 8000 >"$1/files"`, b.dir, b.tree)
	long(t, `cd "$1"; [ -e git.done ] && exit
		rm -rf git; git init -q --bare git; cd "$2/usr/src/linux-source-6.1"
		git="git --git-dir=$1/git --work-tree=. -c core.bare=false -c core.compression=0 -c user.name=bench -c user.email=bench@localhost"
		$git add -f . ; $git commit -q -m tree; : >"$1/git.done"`, b.dir, b.tree)
}

// long runs a script that may take minutes and returns how many seconds it
// took.
func long(t *testing.T, text string, args ...string) float64 {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", text, "sh"}, args...)...)
	return timed(t, cmd)
}

// timed runs cmd and returns how many seconds it took.
func timed(t *testing.T, cmd *exec.Cmd) float64 {
	t.Helper()
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	const limit = 10 * time.Minute
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, said.String())
	}
	return time.Since(start).Seconds()
}

// script makes a work of a shell script: $1 is the tree, $2 where new files go.
// git finds its repository.
func script(text string) func(b *mountBench, t *testing.T, m *mounted) float64 {
	return func(b *mountBench, t *testing.T, m *mounted) float64 {
		t.Helper()
		cmd := exec.Command("sh", "-euc", text, "sh", m.root, m.room)
		cmd.Env = b.gitEnv(m)
		return timed(t, cmd)
	}
}

func (b *mountBench) gitEnv(m *mounted) []string {
	return append(os.Environ(), "GIT_OPTIONAL_LOCKS=0", "GIT_DIR="+filepath.Join(b.dir, "git"),
		"GIT_WORK_TREE="+filepath.Join(m.root, "usr/src/linux-source-6.1"),
		"GIT_INDEX_FILE="+filepath.Join(b.dir, "index."+strings.ReplaceAll(m.name, " ", "-")))
}

// child makes a work of one that this program does in a process of its own, on
// a path of the mount.
func child(name, path string) func(b *mountBench, t *testing.T, m *mounted) float64 {
	return func(b *mountBench, t *testing.T, m *mounted) float64 {
		t.Helper()
		at := filepath.Join(m.root, path)
		if rel, ok := strings.CutPrefix(path, "room/"); ok {
			at = filepath.Join(m.room, rel)
		}
		return runChild(t, b, name, at)
	}
}

func runChild(t *testing.T, b *mountBench, name, path string) float64 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, path)
	cmd.Env = append(os.Environ(), childEnv+"="+name, fileListEnv+"="+b.files)
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, path, err, said)
	}
	nanoseconds, err := strconv.ParseFloat(strings.TrimSpace(string(said)), 64)
	if err != nil {
		t.Fatal(err)
	}
	return nanoseconds / 1e9
}

// warmHost has the host remember the tree's names and attributes.
func warmHost(b *mountBench, t *testing.T, _ *mounted) { t.Helper(); runChild(t, b, "walk", b.tree) }

// ownIndex gives git an index with the inode numbers of this filesystem.
func ownIndex(b *mountBench, t *testing.T, m *mounted) {
	t.Helper()
	if b.indexed[m] {
		return
	}
	b.indexed[m] = true
	cmd := exec.Command("sh", "-euc", `cp "$GIT_DIR/index" "$GIT_INDEX_FILE"; git update-index -q --refresh`)
	cmd.Env = b.gitEnv(m)
	timed(t, cmd)
}

// sources makes 500 files of C that share a few headers, with nothing compiled.
func sources(_ *mountBench, t *testing.T, m *mounted) {
	t.Helper()
	long(t, `mkdir -p "$1/src"; cd "$1/src"; rm -f *.o
		[ -e Makefile ] && exit
		for h in 1 2 3 4 5 6 7 8 9 10; do
			echo "struct s$h { int a[$h]; }; static inline int f$h(struct s$h *s) { return s->a[0] + $h; }" >h$h.h
		done
		i=0
		while [ $i -lt 500 ]; do
			{ for h in 1 2 3 4 5 6 7 8 9 10; do echo "#include \"h$h.h\""; done
			  echo "int g$i(struct s3 *s, struct s7 *t) { return f3(s) * f7(t) + $i; }"; } >c$i.c
			i=$((i+1))
		done
		printf '%s\n' 'all: $(patsubst %.c,%.o,$(wildcard *.c))' '%.o: %.c $(wildcard *.h)' '	$(CC) -c -o $@ $<' >Makefile`, m.room)
}

// empty removes what a work has made, and lets the disk come to rest.
func empty(_ *mountBench, t *testing.T, m *mounted) {
	t.Helper()
	long(t, `rm -rf "$1/small" "$1/file"`, m.room)
	unix.Sync()
}

// created makes the files that will be deleted.
func created(b *mountBench, t *testing.T, m *mounted) {
	t.Helper()
	empty(b, t, m)
	runChild(t, b, "create", filepath.Join(m.room, "small"))
	unix.Sync()
}

// largeFile makes the file that is read, and has the kernel forget its content:
// which pages of memory it comes into decides for long how fast it is copied
// out of them, more than which filesystem it is on.
func largeFile(_ *mountBench, t *testing.T, m *mounted) {
	t.Helper()
	long(t, `[ -e "$1/large" ] || { head -c 512M /dev/zero | tr '\0' x >"$1/large"; sync "$1/large"; }
		dd if="$1/large" iflag=nocache count=0 status=none`, m.room)
}
