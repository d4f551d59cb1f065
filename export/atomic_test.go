package export

import (
	"errors"
	"os"
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
	for _, p := range []string{path, filepath.Join(dir, "new/deep/out")} {
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
	for path, want := range map[string]string{
		"":                             "empty name",
		dir:                            "is a directory",
		"/dev/null":                    "device or another special file",
		filepath.Join(dir, "loop"):     "too many levels of symbolic links",
		filepath.Join(dir, "file/out"): "not a directory",
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

func TestScratchHasNoName(t *testing.T) {
	dir := t.TempDir()
	f, err := Scratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wantNames(t, dir)
}

// A full disk fails the output, whichever way temporary files are made, and
// what is left is what was there.
func TestFullDiskKeepsOldFile(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		need(t, "mount", false)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "out")
	writeOutput(t, path, "old")
	tr := everyKind(t)
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
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks-st.Bfree > 1 {
		t.Errorf("%d blocks are still used, error %v", st.Blocks-st.Bfree, err)
	}
}
