package overlay

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// basedProject is a project on a base that holds one file.
func basedProject(t *testing.T, content string) *Project {
	t.Helper()
	root := t.TempDir()
	base := tarOf(t, aDir("."), aFile("file", strings.Repeat(content, 10_000)))
	must(t, os.WriteFile(filepath.Join(root, "base.tar"), base, 0o644))
	must(t, os.WriteFile(filepath.Join(root, ManifestName), []byte("remove = ['/"+content+"']\n[base]\nsource = 'base.tar'\n"), 0o644))
	p, err := Find(root, "")
	must(t, err)
	return p
}

func openToRead(t *testing.T, p *Project) *Tree {
	t.Helper()
	tree, err := Open(p, Options{ReadOnly: true})
	must(t, err)
	return tree
}

// collected runs CollectCache and says what went, as "unpacked images 1".
func collected(t *testing.T, p *Project, dry bool) string {
	t.Helper()
	c := &Collector{Dry: dry, Log: slog.New(slog.DiscardHandler)}
	must(t, p.CollectCache(c))
	var words []string
	for _, f := range c.Freed {
		words = append(words, fmt.Sprintf("%s %d", f.Kind, f.Count))
		if f.Bytes < 1000 && f.Kind == "unpacked images" {
			t.Errorf("%s: %d bytes", f.Kind, f.Bytes)
		}
	}
	return strings.Join(words, ", ")
}

func TestCacheKeepsWhatProjectsUse(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", filepath.Join(t.TempDir(), "[a-z]*")) // a name, not a pattern
	one, same, other := basedProject(t, "one"), basedProject(t, "one"), basedProject(t, "other")
	for _, p := range []*Project{one, same, other} {
		must(t, openToRead(t, p).Close())
	}
	const two = "unpacked images 1, layers of manifests 1"
	want := func(step, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: removed %q, want %q", step, got, want)
		}
	}
	want("all in use", collected(t, one, false), "")
	must(t, os.RemoveAll(one.Root))
	want("one of two is gone", collected(t, same, false), "")

	// What is open stays, though its project is gone.
	tree := openToRead(t, other)
	must(t, os.RemoveAll(other.Root))
	want("open, and dry", collected(t, same, true), "")
	want("open", collected(t, same, false), "")
	if got := readPath(t, tree, "file"); !strings.HasPrefix(got, "otherother") {
		t.Errorf("the open tree has %q", got)
	}
	must(t, tree.Close())
	want("closed, and dry", collected(t, same, true), two)
	want("closed", collected(t, same, false), two)

	// Another base in the place of the one that was used.
	must(t, os.WriteFile(filepath.Join(same.Root, ManifestName), []byte("remove = ['/one']\n[base]\nsource = 'new.tar'\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(same.Root, "new.tar"), tarOf(t, aDir("."), aFile("file", "new")), 0o644))
	same, err := Find(same.Root, "")
	must(t, err)
	must(t, openToRead(t, same).Close())
	want("another base", collected(t, same, false), "unpacked images 1")
	left, err := os.ReadDir(filepath.Join(same.cacheDir(), "archives"))
	if err != nil || len(left) != 1 {
		t.Errorf("records of archives: %v, %v", left, err)
	}
	must(t, openToRead(t, same).Close())

	// A crash's leftovers.
	must(t, os.Mkdir(filepath.Join(same.cacheDir(), "layers", goneMark+"x"), 0o755))
	want("leftovers", collected(t, same, false), "unpacked images 1")
}

// readPath reads a file of the root directory.
func readPath(t *testing.T, tree *Tree, name string) string {
	t.Helper()
	n, err := tree.Lookup(tree.Root(), name, nil)
	must(t, err)
	buf := make([]byte, 1<<20)
	got, err := tree.Read(n, buf, 0)
	must(t, err)
	return string(buf[:got])
}

func TestFetchesOfProjectsStay(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	p := basedProject(t, "one")
	index := filepath.Join(p.FetchDir(), "addresses")
	must(t, os.MkdirAll(index, 0o755))
	for i, address := range []string{"http://a/x", "http://a/y"} {
		sum := fmt.Sprint("sum", i)
		must(t, os.WriteFile(filepath.Join(index, FetchName(address)), []byte(sum), 0o644))
		must(t, os.WriteFile(filepath.Join(p.FetchDir(), sum), []byte("content"), 0o644))
	}
	p.NoteFetches([]string{"http://a/y"})
	if got := collected(t, p, false); got != "fetched files 1" {
		t.Errorf("removed %q", got)
	}
	left, err := filepath.Glob(filepath.Join(p.FetchDir(), "*"))
	if err != nil || len(left) != 2 || filepath.Base(left[1]) != "sum1" {
		t.Errorf("left: %v, %v", left, err)
	}
	must(t, os.RemoveAll(p.Root))
	if got := collected(t, p, false); got != "fetched files 1" {
		t.Errorf("with no project, removed %q", got)
	}
}

// A record that can't be read is nobody's.
func TestDamagedRecordOfUse(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	p := basedProject(t, "one")
	must(t, openToRead(t, p).Close())
	files, err := filepath.Glob(filepath.Join(p.cacheDir(), "projects", "*."+usedLayers))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	must(t, err)
	var rec useRecord
	if err := json.Unmarshal(text, &rec); err != nil || rec.Root != p.Root || len(rec.Uses) != 2 {
		t.Errorf("the record is %s (%v)", text, err)
	}
	must(t, os.WriteFile(files[0], text[:len(text)/2], 0o644))
	if got := collected(t, p, false); got != "unpacked images 1, layers of manifests 1" {
		t.Errorf("removed %q", got)
	}
	must(t, openToRead(t, p).Close())
}

// Who opens a tree has all of it, however often somebody removes what isn't
// known to be used.
func TestCollectWhileOpening(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	p := basedProject(t, "one")
	must(t, openToRead(t, p).Close())
	done := make(chan struct{})
	var collecting sync.WaitGroup
	removed := 0
	collecting.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			c := &Collector{Log: slog.New(slog.DiscardHandler)}
			_ = os.RemoveAll(filepath.Join(p.cacheDir(), "projects")) // unless one is being written
			if err := p.CollectCache(c); err != nil {
				t.Errorf("collect: %v", err)
				return
			}
			removed += len(c.Freed)
		}
	})
	for range 100 {
		tree, err := Open(p, Options{ReadOnly: true})
		if err != nil {
			t.Error(err)
			break
		}
		if got := readPath(t, tree, "file"); len(got) != 30_000 {
			t.Errorf("the file has %d bytes", len(got))
		}
		must(t, tree.Close())
	}
	close(done)
	collecting.Wait()
	t.Logf("removed %d times meanwhile", removed)
}
