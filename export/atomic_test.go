package export

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func writeOutput(t *testing.T, path, data string) {
	t.Helper()
	o, err := CreateOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Discard()
	if _, err := o.File.WriteString(data); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q, error %v; want %q", path, got, err, want)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := litter(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestOutputAppearsOnCommit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	for _, data := range []string{"first", "second"} {
		o, err := CreateOutput(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.File.WriteString(data); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) == data {
			t.Error("the output appeared before Commit")
		}
		if err := o.Commit(); err != nil {
			t.Fatal(err)
		}
		o.Discard()
		wantFile(t, path, data)
		wantNames(t, dir, "out")
	}
}

func TestDiscardKeepsOldFileAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	writeOutput(t, path, "old")
	for _, p := range []string{path, filepath.Join(dir, "new/deep/out"), dir + "/new/../other/out"} {
		o, err := CreateOutput(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.File.WriteString("half"); err != nil {
			t.Fatal(err)
		}
		o.Discard()
		o.Discard()
	}
	wantFile(t, path, "old")
	wantNames(t, dir, "out")
}

func TestFailedCommitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	o, err := CreateOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err == nil {
		t.Error("Commit replaced a directory")
	}
	wantNames(t, dir, "out")
}

func TestOutputHasModeByUmaskOrOldMode(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "out")
	for _, want := range []os.FileMode{0o640, 0o600} {
		writeOutput(t, path, "")
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("mode %o, want %o", st.Mode().Perm(), want)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOutputIsWrittenThroughLinks(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{"dangling": "real/a", "link": "b", "link2": "link"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	writeOutput(t, filepath.Join(dir, "dangling"), "a")
	writeOutput(t, filepath.Join(dir, "link2"), "b")
	wantFile(t, filepath.Join(dir, "real/a"), "a")
	wantFile(t, filepath.Join(dir, "b"), "b")
	wantNames(t, dir, "b", "dangling", "link", "link2", "real")
}

func TestBadOutputNames(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	writeOutput(t, filepath.Join(dir, "file"), "")
	pipe, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close() //nolint:errcheck // nothing is written
	defer end.Close()  //nolint:errcheck // nothing is written
	for path, want := range map[string]string{
		fmt.Sprintf("/dev/fd/%d", end.Fd()): "device or another special file",
		"":                                  "empty name",
		dir:                                 "is a directory",
		dir + "/new/":                       "names a directory",
		"/dev/null":                         "device or another special file",
		filepath.Join(dir, "loop"):          "too many levels of symbolic links",
		filepath.Join(dir, "file/out"):      "not a directory",
		filepath.Join(dir, strings.Repeat("n", 256)): "file name too long",
	} {
		if o, err := CreateOutput(path); err == nil || !strings.Contains(err.Error(), want) {
			if o != nil {
				o.Discard()
			}
			t.Errorf("CreateOutput(%q): %v, want %q", path, err, want)
		}
	}
	wantNames(t, dir, "file", "loop")
}

func TestOutputDirReplacesOnlyWhatItMay(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "layout")
	never := func(string) error { return errors.New("not mine") }
	for _, name := range []string{"one", "two"} {
		o, err := CreateOutputDir(path, func(string) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(o.Path, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := o.Commit(); err != nil {
			t.Fatal(err)
		}
		o.Discard()
		wantNames(t, path, name)
		wantNames(t, filepath.Dir(path), "layout")
	}
	if _, err := CreateOutputDir(path, never); err == nil || err.Error() != "not mine" {
		t.Errorf("error %v, want the one of mayReplace", err)
	}
	if _, err := CreateOutputDir(filepath.Join(path, "two"), never); err == nil {
		t.Error("a file was taken for a directory")
	}
	o, err := CreateOutputDir(path, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	o.Discard()
	wantNames(t, path, "two")
	wantNames(t, filepath.Dir(path), "layout")
}

// onFilesystems runs a test in a directory of a filesystem of 1 MiB that can
// all that an output uses, and on the same without nameless files and without
// an exchange of names, as FAT and FUSE filesystems are.
func onFilesystems(t *testing.T, test func(t *testing.T, dir string)) {
	needRoot(t)
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%t", plain), func(t *testing.T) {
			dir := t.TempDir()
			need(t, "mount", unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m") == nil)
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			if plain {
				nameless, exchange := openNameless, exchangeNames
				t.Cleanup(func() { openNameless, exchangeNames = nameless, exchange })
				openNameless = func(string) (*os.File, error) { return nil, unix.EOPNOTSUPP }
				exchangeNames = func(_, b string) error {
					if _, err := os.Lstat(b); err != nil {
						return err
					}
					return unix.EINVAL
				}
			}
			test(t, dir)
		})
	}
}

// What no rename can replace is refused before the work, not behind it, when
// other outputs have their names already.
func TestOutputThatCantBeReplaced(t *testing.T) {
	refused := func(path string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("output %s: %v, want %q", path, err, want)
		}
	}
	takesAll := func(string) error { return nil }
	dir := t.TempDir()
	t.Chdir(dir)
	for _, path := range []string{".", "./", dir + "/.", "missing/.."} {
		_, err := CreateOutputDir(path, takesAll)
		refused(path, err, "by its name")
	}
	wantNames(t, dir)
	onFilesystems(t, func(t *testing.T, mounted string) {
		_, err := CreateOutputDir(mounted, takesAll)
		refused(mounted, err, "mount point")
		file := filepath.Join(mounted, "file")
		writeOutput(t, file, "old")
		if err := unix.Mount(file, file, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(file, 0); err != nil {
				t.Error(err)
			}
		})
		_, err = CreateOutput(file)
		refused(file, err, "mount point")
		wantNames(t, mounted, "file")
	})
}

// What is written on the way to an output is where that is, not where a link to
// it is.
func TestScratchIsOnTheDiskOfTheOutput(t *testing.T) {
	real := openNameless
	t.Cleanup(func() { openNameless = real })
	for _, kind := range []string{"docker", "oci"} {
		links, dir := t.TempDir(), t.TempDir()
		openNameless = func(in string) (*os.File, error) {
			if in != dir {
				t.Errorf("%s: a file is made in %s", kind, in)
			}
			return real(in)
		}
		link := filepath.Join(links, "out")
		if err := os.Symlink(filepath.Join(dir, kind), link); err != nil {
			t.Fatal(err)
		}
		r := &Request{Docker: link}
		if kind == "oci" {
			r = &Request{OCI: link}
		}
		if _, err := Run(t.Context(), configTree(t, "file x"), r); err != nil {
			t.Fatal(err)
		}
		wantNames(t, links, "out")
		wantNames(t, dir, kind)
	}
}

// An output whose disk turns out to be full keeps the others from appearing.
func TestOutputsAppearTogether(t *testing.T) {
	dir := t.TempDir()
	tar := filepath.Join(dir, "tar")
	writeOutput(t, tar, "old")
	o := &outputs{}
	defer o.discard()
	var err error
	if o.tar, err = CreateOutput(tar); err != nil {
		t.Fatal(err)
	}
	if o.img, err = CreateOutput(filepath.Join(dir, "img")); err != nil {
		t.Fatal(err)
	}
	closeFile(t, o.img.File) // fsync fails
	if err := o.commit(); err == nil || !strings.Contains(err.Error(), "img") {
		t.Errorf("error %v", err)
	}
	o.discard()
	wantFile(t, tar, "old")
	wantNames(t, dir, "tar")
}

func TestFullDiskKeepsOldFile(t *testing.T) {
	tr := everyKind(t)
	onFilesystems(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "out")
		writeOutput(t, path, "old")
		var before, after unix.Statfs_t
		if err := unix.Statfs(dir, &before); err != nil {
			t.Fatal(err)
		}
		o, err := CreateOutput(path)
		if err != nil {
			t.Fatal(err)
		}
		w := NewTarWriter(t.Context(), o.File, TarOptions{})
		for i := range tr.entries {
			if w.Add(&tr.entries[i]) != nil {
				break
			}
		}
		if _, err := w.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Close: %v, want ENOSPC", err)
		}
		o.Discard()
		wantFile(t, path, "old")
		wantNames(t, dir, "out")
		if err := unix.Statfs(dir, &after); err != nil || after.Bfree != before.Bfree {
			t.Errorf("%d blocks are free of %d, error %v", after.Bfree, before.Bfree, err)
		}
	})
}

func TestOutputsReplaceOnAnyFilesystem(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		for _, data := range []string{"one", "two"} {
			writeOutput(t, filepath.Join(dir, "out"), data)
			wantFile(t, filepath.Join(dir, "out"), data)
			o, err := CreateOutputDir(filepath.Join(dir, "layout")+"/", func(string) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(o.Path, data), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := o.Commit(); err != nil {
				t.Fatal(err)
			}
			wantNames(t, filepath.Join(dir, "layout"), data)
			wantNames(t, dir, "layout", "out")
		}
		f, err := Scratch(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer closeFile(t, f)
		wantNames(t, dir, "layout", "out")
	})
}

// The file has no name yet when it can't be made: the error has the output's.
func TestOutputThatCantBeMadeIsNamed(t *testing.T) {
	was := openNameless
	openNameless = func(string) (*os.File, error) { return nil, unix.EROFS }
	defer func() { openNameless = was }()
	t.Chdir(t.TempDir())
	if _, err := CreateOutput("disk.img"); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "disk.img") {
		t.Errorf("error %v", err)
	}
}

// The process that dies here is the test's own binary, told so by a variable.
func TestKilledWriterLeavesNothing(t *testing.T) {
	const variable = "ROOTFS_TEST_KILLED_WRITER"
	if path := os.Getenv(variable); path != "" {
		o, err := CreateOutput(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.File.WriteString("half"); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	writeOutput(t, path, "old")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLeavesNothing$")
	cmd.Env = append(os.Environ(), variable+"="+path)
	if err := cmd.Run(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the writer ended with %v", err)
	}
	wantFile(t, path, "old")
	wantNames(t, dir, "out")
}

func TestOutputThroughLinkedParent(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "real/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real/sub", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	writeOutput(t, dir+"/a/../out", "x")
	wantFile(t, filepath.Join(dir, "real/out"), "x")
	t.Chdir(dir)
	writeOutput(t, "out", "y")
	wantFile(t, filepath.Join(dir, "out"), "y")
}
