package overlay

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heard notes what a tree announces, and what it logs.
type heard struct {
	mu    sync.Mutex
	names map[string]bool
	nodes map[*Node]bool
	early map[string]bool // names before which no node was announced
	log   strings.Builder
}

func (h *heard) Write(line []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(line)
}

// logged returns how often text was.
func (h *heard) logged(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.log.String(), text)
}

func (h *heard) NameChanged(_ *Node, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names[name] = true
	h.early[name] = h.early[name] || len(h.nodes) == 0
}

func (h *heard) Changed(n *Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes[n] = true
}

func (h *heard) name(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names[name]
}

func (h *heard) node(n *Node) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nodes[n]
}

// watched opens the project, visits all of it and watches.
func watched(t *testing.T, p *Project) (*Tree, *heard) {
	t.Helper()
	tree, h := listening(t, p)
	hold(t, tree, tree.Root())
	return tree, h
}

// listening is watched without anything having been looked up.
func listening(t *testing.T, p *Project) (*Tree, *heard) {
	t.Helper()
	tree := open(t, p)
	h := &heard{names: make(map[string]bool), nodes: make(map[*Node]bool), early: make(map[string]bool)}
	tree.log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), h), nil))
	tree.Watch(h)
	return tree, h
}

// hold refers to all nodes, as a kernel does that has seen them.
func hold(t *testing.T, tree *Tree, dir *Node) {
	t.Helper()
	var buf [64]DirEntry
	k, err := tree.ReadDir(dir, 0, buf[:])
	must(t, err)
	for _, e := range buf[:k] {
		n, err := tree.Lookup(dir, e.Name, nil)
		must(t, err)
		if n.dir != nil {
			hold(t, tree, n)
		}
	}
}

// within waits until the condition holds.
func within(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Errorf("not within three seconds: %s", what)
}

func in(t *testing.T, p *Project, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = p.Root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func TestLayersAreLive(t *testing.T) {
	for _, tc := range []struct{ name, script, announced, want string }{
		{"a new file", `echo n >user/apps/a/usr/new`, "new", `usr/new 100644 0:0 "n\n"`},
		{"a removed file", `rm user/apps/a/usr/file`, "file", ``},
		{"a removed file above another", `rm user/apps/b/usr/both`, "both", `usr/both 100644 0:0 "from a"`},
		{"a replaced file", `echo r >x; mv x user/apps/a/usr/file`, "file", `usr/file 100644 0:0 "r\n"`},
		{"a file above another", `echo r >user/sysconfig/usr/both`, "both", `usr/both 100644 0:0 "r\n"`},
		{"a new tree", `mkdir -p user/apps/a/usr/n/e; sleep .1; echo w >user/apps/a/usr/n/e/w`, "n", `usr/n/e/w 100644 0:0 "w\n"`},
		{"a moved tree", `mv user/apps/a/usr/sub user/apps/a/usr/sub2; echo w >user/apps/a/usr/sub2/y`, "sub2", `usr/sub2/y 100644 0:0 "w\n"`},
		{"a tree made anew", `ln user/apps/a/usr/sub/x old; rm -r user/apps/a/usr; mkdir -p user/apps/a/usr/sub; echo w >user/apps/a/usr/sub/x`, "sub|x", `usr/sub/x 100644 0:0 "w\n"`},
		{"a whole new package", `mkdir -p p/usr/bin; echo p >p/usr/bin/prog; mv p user/apps/p`, "bin", `usr/bin/prog 100644 0:0 "p\n"`},
		{"a package copied in slowly", `mkdir user/apps/p; sleep .3; mkdir -p user/apps/p/usr; sleep .1; echo p >user/apps/p/usr/prog`, "prog", `usr/prog 100644 0:0 "p\n"`},
		{"a package that goes", `rm -r user/apps/b`, "both", `usr/both 100644 0:0 "from a"`},
		{"the manifest", `printf '[[file]]\npath = "/usr/file"\nmode = "4755"\n' >rootfs.toml`, "", `usr/file 104755 0:0 "f"`},
		{"a package's directory over a new link", `mkdir -p user/apps/a/bin; ln -s usr user/apps/a/sbin; mkdir -p user/apps/b/sbin; echo s >user/apps/b/sbin/s`, "s", `usr/s 100644 0:0 "s\n"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "user/apps/a/usr/file f", "user/apps/a/usr/both from a", "user/apps/a/usr/sub/x x",
				"user/apps/b/usr/both from b", "user/sysconfig/usr/z z")
			tree, h := watched(t, p)
			in(t, p, tc.script)
			path, _, _ := strings.Cut(tc.want, " ")
			if path == "" {
				path = "usr/file"
			}
			within(t, tc.want, func() bool {
				if _, err := find(tree, path); err != nil {
					return tc.want == ""
				}
				return tc.want != "" && strings.Contains(dump(t, tree), tc.want+"\n")
			})
			if tc.announced != "" {
				within(t, "announced "+tc.announced, func() bool {
					return slices.ContainsFunc(strings.Split(tc.announced, "|"), h.name)
				})
			}
		})
	}
}

// A tree may be opened long before it is mounted.
func TestLayersAreLiveFromWhenTheTreeWasOpened(t *testing.T) {
	for _, tc := range []struct{ name, script string }{
		{"a new package", `mkdir -p p/usr/new; mv p user/apps/p`},
		{"another result", `ln -sfn ../../../two user/apps/c/result`},
		{"a new manifest", `printf '[[file]]\npath = "/usr/new"\ntype = "dir"\n' >rootfs.toml`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "user/apps/a/usr/file f", "one/usr/file f", "two/usr/new/file f",
				"user/apps/c/result ->../../../one", "user/sysconfig/usr/z z")
			tree := open(t, p)
			in(t, p, tc.script)
			h := &heard{names: make(map[string]bool), nodes: make(map[*Node]bool), early: make(map[string]bool)}
			tree.Watch(h)
			within(t, "new is shown", shows(tree, "usr/new"))
		})
	}
	t.Run("nothing", func(t *testing.T) {
		tree, h := watched(t, project(t, "user/apps/a/usr/file f"))
		time.Sleep(10 * settle)
		if h.node(tree.Root()) {
			t.Error("the layers were read again")
		}
	})
}

// shows tells whether the tree has path.
func shows(tree *Tree, path string) func() bool {
	return func() bool { _, err := find(tree, path); return err == nil }
}

// While layers can't be shown as they are now, what is in the others is seen.
func TestLayersAreLiveBesideTrouble(t *testing.T) {
	for _, trouble := range []struct{ name, make, mend string }{
		{"an unfinished package", `mkdir user/apps/bad`, `mkdir user/apps/bad/opt`},
		{"a broken manifest", `echo 'arch = ' >rootfs.toml`, `printf '[[file]]\npath = "/opt"\ntype = "dir"\n' >rootfs.toml`},
		{"a result that leads nowhere", `mkdir bad; ln -s ../../../new bad/result; mv bad user/apps`, `mkdir -p new/opt`},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			p := project(t, "user/apps/a/usr/file f", "user/apps/b/usr/gone g", "user/apps/c/srv/gone g", "user/sysconfig/etc/c c")
			tree, h := watched(t, p)
			in(t, p, trouble.make)
			within(t, "the trouble", func() bool { return h.logged("can't be shown") > 0 })
			in(t, p, `sleep .5; echo n >user/apps/a/usr/new; echo n >user/sysconfig/etc/new; rm user/apps/b/usr/gone`)
			within(t, "a new file", shows(tree, "usr/new"))
			within(t, "another layer's", shows(tree, "etc/new"))
			within(t, "a removed file", func() bool { return !shows(tree, "usr/gone")() })
			if n := h.logged("can't be shown"); n != 1 {
				t.Errorf("warned %d times", n)
			}
			in(t, p, `mkdir -p user/apps/a/var/d; rm -r user/apps/c`)
			within(t, "a new directory", shows(tree, "var/d"))
			within(t, "a package that goes", func() bool { return !shows(tree, "srv/gone")() })
			in(t, p, trouble.mend)
			within(t, "all", shows(tree, "opt"))
		})
	}
}

// What comes is announced before what has only been looked at for it.
func TestNamesAreAnnouncedFirst(t *testing.T) {
	p := project(t, "user/apps/a/usr/lib/file f", "user/sysconfig/etc/c c")
	_, h := watched(t, p)
	in(t, p, `mkdir user/sysconfig/etc/new`)
	within(t, "new", func() bool { return h.name("new") })
	if !h.early["new"] {
		t.Error("new was announced after nodes")
	}
}

func TestRootOfALayerIsLive(t *testing.T) {
	p := project(t, "user/sysconfig/etc/c c")
	tree, h := watched(t, p)
	h.forget()
	in(t, p, `chmod 700 user/sysconfig`)
	within(t, "announced", func() bool { return h.node(tree.Root()) })
}

// A package that is switched to another tree again and again.
func TestLayersThatGoAreGivenBack(t *testing.T) {
	p := project(t, "user/sysconfig/etc/c c", "user/apps/r/result ->../../../build/0", "user/apps/z/sbin/s s")
	const switches = 10
	for i := range switches + 1 {
		save(t, filepath.Join(p.Root, fmt.Sprintf("build/%d/usr/lib/%d", i, i)), nil)
		save(t, filepath.Join(p.Root, fmt.Sprintf("build/%d/usr/share/s", i)), nil)
		must(t, os.Symlink("usr/lib", filepath.Join(p.Root, fmt.Sprintf("build/%d/sbin", i))))
	}
	tree, _ := watched(t, p)
	kept := func() (fds, dirs, watches int) {
		all, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		for _, f := range all {
			if to, _ := os.Readlink("/proc/self/fd/" + f.Name()); strings.HasPrefix(to, p.Root+"/build/") {
				fds++
			}
		}
		tree.watch.mu.Lock()
		defer tree.watch.mu.Unlock()
		return fds, len(tree.watch.dirs) + len(tree.watch.moved), len(tree.watch.events.wds)
	}
	must(t, tree.Rename(at(t, tree, "usr"), "share", tree.Root(), "moved", 0))
	var fds, dirs, watches int
	for i := range switches {
		in(t, p, fmt.Sprintf(`ln -s ../../../build/%d user/apps/r/next; mv -T user/apps/r/next user/apps/r/result`, i+1))
		within(t, "switched", shows(tree, fmt.Sprintf("usr/lib/%d", i+1)))
		within(t, "switched whole", func() bool { return !shows(tree, fmt.Sprintf("usr/lib/%d", i))() })
		tree.ReleaseAll(visit(tree, tree.Root()))
		if i == 0 {
			fds, dirs, watches = kept()
		}
	}
	within(t, "given back", func() bool {
		f, d, w := kept()
		return f <= fds && d <= dirs && w <= watches
	})
	if t.Failed() {
		f, d, w := kept()
		t.Errorf("descriptors %d, then %d; directories %d, then %d; watches %d, then %d", fds, f, dirs, d, watches, w)
	}
}

// A file that was looked up and not read yet keeps its content when its layer
// goes, unless something else takes the layer's place.
func TestFilesOfLayersThatGo(t *testing.T) {
	p := project(t, "user/sysconfig/etc/c c", "build/0/f old", "build/1/f new", "user/apps/r/result ->../../../build/0")
	must(t, os.Rename(filepath.Join(p.Root, "build/0/f"), filepath.Join(p.Root, "build/0/init")))
	must(t, os.Rename(filepath.Join(p.Root, "build/1/f"), filepath.Join(p.Root, "build/1/init")))
	tree, h := watched(t, p)
	n := at(t, tree, "init")
	in(t, p, `ln -s ../../../build/1 user/apps/r/next; mv -T user/apps/r/next user/apps/r/result`)
	within(t, "switched", func() bool { return h.name("init") })
	buf := make([]byte, 8)
	if k, err := tree.Read(n, buf, 0); err != nil || string(buf[:k]) != "old" {
		t.Errorf("%q, %v", buf[:k], err)
	}
	n = at(t, tree, "init")
	h.forget()
	in(t, p, `mv build/1 build/2; mkdir build/1; echo other >build/1/init`)
	within(t, "replaced", func() bool { return h.name("init") })
	if k, err := tree.Read(n, buf, 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("%q, %v", buf[:k], err)
	}
}

func TestEditsWinOverLiveLayers(t *testing.T) {
	p := project(t, "user/sysconfig/etc/mine one", "user/sysconfig/etc/gone x", "user/sysconfig/etc/theirs x")
	tree, h := watched(t, p)
	_, err := tree.Write(at(t, tree, "etc/mine"), []byte("edit"), 0)
	must(t, err)
	must(t, tree.Unlink(at(t, tree, "etc"), "gone"))
	in(t, p, `for f in mine gone theirs; do echo layer >user/sysconfig/etc/new; mv user/sysconfig/etc/new user/sysconfig/etc/$f; done`)
	within(t, "theirs", func() bool { return h.name("theirs") })
	expect(t, tree, `etc 40755 0:0`, `etc/mine 100644 0:0 "edit"`, `etc/theirs 100644 0:0 "layer\n"`)
	must(t, tree.Unlink(at(t, tree, "etc"), "mine"))
	expect(t, tree, `etc 40755 0:0`, `etc/theirs 100644 0:0 "layer\n"`)
}

func TestOpenFileKeepsReading(t *testing.T) {
	p := project(t, "user/sysconfig/f old")
	tree, h := watched(t, p)
	n := at(t, tree, "f")
	buf := make([]byte, 8)
	if k, err := tree.Read(n, buf, 0); err != nil || string(buf[:k]) != "old" {
		t.Fatalf("%q, %v", buf[:k], err)
	}
	in(t, p, `echo new >g; mv g user/sysconfig/f`)
	within(t, "announced", func() bool { return h.name("f") })
	if k, err := tree.Read(n, buf, 0); err != nil || string(buf[:k]) != "old" {
		t.Errorf("the open file reads %q, %v", buf[:k], err)
	}
	expect(t, tree, `f 100644 0:0 "new\n"`)

	// Written in place, it is the same file, for who has it open too.
	n = at(t, tree, "f")
	in(t, p, `echo rewritten >user/sysconfig/f`)
	within(t, "content announced", func() bool { return h.node(n) })
	if k, err := tree.Read(n, make([]byte, 16), 0); err != nil || k != len("rewritten\n") {
		t.Errorf("read %d bytes, %v", k, err)
	}
}

func TestVanishedLayerTakesItsFilesOnly(t *testing.T) {
	p := project(t, "user/apps/a/usr/a a", "user/sysconfig/etc/conf c")
	tree, _ := watched(t, p)
	must(t, os.RemoveAll(filepath.Join(p.Root, "user/apps")))
	within(t, "gone", func() bool {
		_, err := find(tree, "usr/a")
		return err != nil
	})
	if got := dump(t, tree); !strings.Contains(got, "etc/conf") {
		t.Errorf("the tree is\n%s", got)
	}
}

// Directories that move away and vanish at once, while others are listed: their
// watches go while they are taken away.
func TestWatchingNeverStopsTheTree(t *testing.T) {
	p := project(t, "user/sysconfig/etc/file f")
	tree, _ := watched(t, p)
	tree.dirs.mu.Lock()
	tree.dirs.max = 1 // an open directory keeps its watch
	tree.dirs.mu.Unlock()
	etc := filepath.Join(p.Root, "user/sysconfig/etc")
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 10 && err == nil; i++ {
			for d := range 100 {
				err = errors.Join(err, os.MkdirAll(filepath.Join(etc, strconv.Itoa(d), "below"), 0o755))
			}
			seen := visit(tree, tree.Root())
			for d := range 100 {
				was, is := filepath.Join(etc, strconv.Itoa(d)), filepath.Join(etc, "x")
				err = errors.Join(err, os.Rename(was, is), os.RemoveAll(is))
			}
			tree.ReleaseAll(seen)
			tree.ReleaseAll(visit(tree, tree.Root()))
		}
		done <- err
	}()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(20 * time.Second):
		// It can't be closed either; this ends the process and shows where.
		must(t, unix.Kill(os.Getpid(), unix.SIGQUIT))
	}
}

// visit looks at all there is.
func visit(tree *Tree, dir *Node) []*Node {
	var seen []*Node
	var buf [1024]DirEntry
	k, _ := tree.ReadDir(dir, 0, buf[:])
	for _, e := range buf[:k] {
		n, err := tree.Lookup(dir, e.Name, nil)
		if err != nil {
			continue // it went meanwhile
		}
		if n.dir != nil {
			seen = append(seen, visit(tree, n)...)
		}
		seen = append(seen, n)
	}
	return seen
}

// With the race detector: what a checkpoint looks at changes with the layers.
func TestCheckpointsWhileLayersChange(t *testing.T) {
	p := project(t, "user/sysconfig/f one", "user/apps/a/usr/x x")
	tree, _ := watched(t, p)
	for i := range 5 {
		in(t, p, fmt.Sprintf("mkdir -p new/usr; echo >new/usr/n%d; mv new user/apps/n%[1]d", i))
		within(t, "there", func() bool {
			c, err := tree.Checkpoint(Checkpoint{Temporary: true})
			must(t, err)
			must(t, tree.Uncheckpoint(c.ID))
			return has(tree, fmt.Sprintf("usr/n%d", i))()
		})
	}
}
