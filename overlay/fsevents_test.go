package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsnotify/fsnotify"
)

func TestWatchOfAFolderThatBecameAnother(t *testing.T) {
	events, err := fsnotify.NewWatcher()
	must(t, err)
	e := folderEvents{events}
	defer e.Close() //nolint:errcheck // nothing is lost
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, path := range []string{a, b} {
		must(t, os.Mkdir(path, 0o755))
		must(t, e.Add(path))
	}
	must(t, os.Rename(b, filepath.Join(dir, "c")))
	must(t, os.Symlink("a", b))
	must(t, e.Add(b))
	if err := e.Remove(b); !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		t.Errorf("%v, want %v: fsnotify may not need folderEvents any more", err, fsnotify.ErrNonExistentWatch)
	}
	must(t, e.Remove(a))
}
