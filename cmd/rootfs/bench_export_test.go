//go:build bench

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmark of image exports: make bench-export. Every figure is the
// median of all rounds; the contenders take turns within a round; each one's
// time ends when its output is on the disk. ROOTFS_BENCH_DIR is where the trees
// are (testdata/bench/tree.sh) and the outputs go.

func benchDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("ROOTFS_BENCH_DIR")
	if dir == "" {
		t.Fatal("ROOTFS_BENCH_DIR is not set; run this with: make bench-export or make bench-mount")
	}
	return dir
}

// contender makes out of the folder tree.
type contender struct {
	name string
	run  func(t *testing.T, tree, out string)
}

const benchRounds = 5

func TestBenchExport(t *testing.T) {
	dir := benchDir(t)
	need(t, "root", "loop", "fsck")
	contenders := []contender{
		{"read and pwrite the contents, two threads", copyContents},
		{"rootfs export --img", exportTree},
		{"mkfs.ext4 -d", mkfsTree},
		{"mkfs.ext4, loop mount, tar", loopTree},
	}
	for _, tree := range []string{"minbase", "large"} {
		root := filepath.Join(dir, tree)
		files, size := measure(t, root)
		times := make(map[string][]float64)
		for round := range benchRounds + 1 { // the first only warms the cache
			for _, c := range contenders {
				out := filepath.Join(dir, "out.img")
				_ = os.Remove(out)
				// A host that reclaims memory eagerly must not decide by who
				// comes after whom.
				sh(t, root, `find . -type f -exec cat {} + >/dev/null`)
				unix.Sync()
				start := time.Now()
				c.run(t, root, out)
				if took := time.Since(start).Seconds(); round > 0 {
					times[c.name] = append(times[c.name], took)
				}
			}
		}
		ours := median(times[contenders[1].name])
		fmt.Printf("\n%s: %d entries, %d MiB; seconds, medians of %d\n\n", tree, files, size>>20, benchRounds)
		fmt.Printf("| | median | min | max | × ours |\n|---|---|---|---|---|\n")
		for _, c := range contenders {
			all := times[c.name]
			fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f |\n", c.name, median(all), slices.Min(all), slices.Max(all), median(all)/ours)
		}
		line, err := json.Marshal(map[string]any{"tree": tree, "entries": files, "bytes": size, "seconds": times})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("\njson %s\n", line)
	}
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

// measure counts the entries of a folder and the bytes of its files.
func measure(t *testing.T, root string) (entries, size int64) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		if d.Type().IsRegular() {
			fi, err := d.Info()
			if err != nil {
				return err
			}
			size += fi.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries, size
}

// copyContents is the floor: nothing but reading all files, by two threads,
// and writing what they hold to one file.
func copyContents(t *testing.T, tree, out string) {
	t.Helper()
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	type piece struct {
		path string
		off  int64
	}
	pieces := make(chan piece, 1024)
	var threads sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		threads.Go(func() {
			buf := make([]byte, 1<<20)
			for p := range pieces {
				if err := copyFileTo(f, p.path, p.off, buf); err != nil {
					errs[i] = err
				}
			}
		})
	}
	off := int64(0)
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		pieces <- piece{path, off}
		off += (fi.Size() + 4095) &^ 4095
		return nil
	})
	close(pieces)
	threads.Wait()
	if err := errors.Join(append(errs, err, f.Sync(), f.Close())...); err != nil {
		t.Fatal(err)
	}
}

func copyFileTo(out *os.File, path string, off int64, buf []byte) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	for {
		n, err := in.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := out.WriteAt(buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
}

// exportTree is this program, with the tree as its base.
func exportTree(t *testing.T, tree, out string) {
	t.Helper()
	exportFrom(t, tree, "--img", out, "--partition", "none")
}

// exportFrom runs an export of a project that is only a base.
func exportFrom(t *testing.T, tree string, args ...string) {
	t.Helper()
	output(t, exec.Command("rootfs", exportArgs(t, tree, args)...))
}

func exportArgs(t *testing.T, tree string, args []string) []string {
	t.Helper()
	project := t.TempDir()
	manifest := fmt.Sprintf("[base]\nsource = %q\n", tree)
	if err := os.WriteFile(filepath.Join(project, "rootfs.toml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	return append([]string{"-q", "-C", project, "export"}, args...)
}

// memoryOf runs an export and returns how much memory it took, in bytes. A
// process begins with the peak of the one that starts it (wait4(2), exec of a
// vfork), so a small one does.
func memoryOf(t *testing.T, tree string, args ...string) float64 {
	t.Helper()
	const small = `import resource, subprocess, sys
subprocess.check_call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)`
	out := output(t, exec.Command("python3", append([]string{"-c", small, "rootfs"}, exportArgs(t, tree, args)...)...))
	kib, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib * 1024
}

// mkfsTree makes an image of the size that ours has.
func mkfsTree(t *testing.T, tree, out string) {
	t.Helper()
	sh(t, ".", `mkfs.ext4 -q -F -d "$1" "$2" "$3"k; sync "$2"`, tree, out, strconv.FormatInt(roomFor(t, tree)>>10, 10))
}

func loopTree(t *testing.T, tree, out string) {
	t.Helper()
	sh(t, ".", `mkfs.ext4 -q -F "$2" "$3"k; mkdir -p "$2.mnt"; mount -o loop "$2" "$2.mnt"
		tar -C "$1" -cf - . | tar -C "$2.mnt" --numeric-owner -xpf -
		umount "$2.mnt"; sync "$2"; rmdir "$2.mnt"`, tree, out, strconv.FormatInt(roomFor(t, tree)>>10, 10))
}

var rooms = make(map[string]int64)

// roomFor is the content, with 8 KiB an entry for what blocks and inodes take,
// and 1 GiB. It is computed once, outside of what is timed: the first round
// doesn't count.
func roomFor(t *testing.T, tree string) int64 {
	t.Helper()
	if rooms[tree] == 0 {
		entries, size := measure(t, tree)
		rooms[tree] = size + entries<<13 + 1<<30
	}
	return rooms[tree]
}

// flatTree is n files, so many in each directory, and what was measured of it.
type flatTree struct {
	files, each int
	root        string
	repeats     int                  // of a measurement in a round
	seconds     map[string][]float64 // by contender
	memory      []float64            // bytes
}

// The cost of an entry beyond what an empty tree costs, from a thousand to a
// million of them, and of one large directory: time and memory are linear, as
// far as the host's are, which the floor shows.
func TestBenchLinear(t *testing.T) {
	dir := benchDir(t)
	out := filepath.Join(dir, "out.img")
	floor := contender{"floor", copyContents}
	ours := contender{"ours", func(t *testing.T, tree, out string) {
		exportFrom(t, tree, "--img", out, "--free", "1MiB")
	}}
	trees := []*flatTree{
		{files: 0, each: 1, repeats: 5}, // what is short varies more
		{files: 1_000, each: 100, repeats: 5},
		{files: 10_000, each: 100, repeats: 5},
		{files: 100_000, each: 100, repeats: 1},
		{files: 1_000_000, each: 100, repeats: 1},
		{files: 100_000, each: 100_000, repeats: 1},
	}
	for _, tree := range trees {
		tree.root = filepath.Join(dir, fmt.Sprintf("linear-%d-%d", tree.files, tree.each))
		tree.seconds = make(map[string][]float64)
		makeFlat(t, tree.root, tree.files, tree.each)
	}
	for range benchRounds {
		for _, tree := range trees {
			// A host that reclaims memory eagerly must not decide by size.
			copyContents(t, tree.root, out)
			for range tree.repeats {
				tree.time(t, floor, out)
				tree.time(t, ours, out)
			}
			tree.memory = append(tree.memory, memoryOf(t, tree.root, "--img", out, "--free", "1MiB"))
		}
	}
	fmt.Printf("\nfiles of 100 bytes on %d processors, medians of %d rounds; an entry's cost is that beyond an empty tree;\n", runtime.NumCPU(), benchRounds)
	fmt.Printf("the floor: to walk, to read the contents and to write them to one file, two threads\n\n")
	fmt.Printf("| files | a directory | seconds | µs an entry | floor's | × floor | peak MiB | 64 MiB and 300 bytes an entry |\n|---|---|---|---|---|---|---|---|\n")
	for _, tree := range trees {
		tree.print(trees[0])
	}
}

// time has a contender make the image once.
func (f *flatTree) time(t *testing.T, c contender, out string) {
	t.Helper()
	_ = os.Remove(out)
	unix.Sync()
	start := time.Now()
	c.run(t, f.root, out)
	f.seconds[c.name] = append(f.seconds[c.name], time.Since(start).Seconds())
}

// print prints a line of the table; empty is the tree without files.
func (f *flatTree) print(empty *flatTree) {
	perEntry := func(name string) float64 {
		return (median(f.seconds[name]) - median(empty.seconds[name])) / float64(f.files) * 1e6
	}
	fmt.Printf("| %d | %d | %.3f |", f.files, f.each, median(f.seconds["ours"]))
	if f == empty {
		fmt.Printf(" | | |")
	} else {
		fmt.Printf(" %.1f | %.1f | %.2f |", perEntry("ours"), perEntry("floor"), perEntry("ours")/perEntry("floor"))
	}
	fmt.Printf(" %.0f | %.0f |\n", median(f.memory)/(1<<20), 64+300*float64(f.files)/(1<<20))
}

// makeFlat makes n files of 100 bytes, each of them in a directory.
func makeFlat(t *testing.T, tree string, n, each int) {
	t.Helper()
	if _, err := os.Stat(tree + ".done"); err == nil {
		return
	}
	text := []byte(strings.Repeat("x", 99) + "\n")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		dir := filepath.Join(tree, strconv.Itoa(i/each/100), strconv.Itoa(i/each))
		if i%each == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d", i)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(tree+".done", nil, 0o644); err != nil {
		t.Fatal(err)
	}
}
