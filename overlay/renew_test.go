package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// forget makes h as if nothing had been announced.
func (h *heard) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.names)
	clear(h.nodes)
}

// reads tells whether n has that content and, by its attributes, that length.
func reads(tree *Tree, n *Node, want string) func() bool {
	return func() bool {
		var e Entry
		buf := make([]byte, 64)
		k, err := tree.Read(n, buf, 0)
		return err == nil && string(buf[:k]) == want && tree.Stat(n, &e) == nil && e.Size == int64(k)
	}
}

// has tells whether the tree has path.
func has(tree *Tree, path string) func() bool {
	return func() bool { _, err := find(tree, path); return err == nil }
}

func TestLayersFileWithSeveralNames(t *testing.T) {
	for _, tc := range []struct{ name, script, want string }{
		{"written by its first name", `echo more >>user/apps/a/usr/file`, "fmore\n"},
		{"written by another name", `echo more >>user/apps/a/usr/link`, "fmore\n"},
		{"written by a name nobody knows", `echo more >>user/apps/a/usr/later/unseen`, "fmore\n"},
		{"the first name removed", `rm user/apps/a/usr/file`, "f"},
		{"the first name replaced", `echo new >x; mv x user/apps/a/usr/file`, "f"},
		{"another name removed", `rm user/apps/a/usr/link`, "f"},
		{"another name replaced", `echo new >x; mv x user/apps/a/usr/link`, "f"},
		{"a new name", `ln user/apps/a/usr/link user/apps/a/usr/third`, "f"},
		{"the first name removed, then written", `rm user/apps/a/usr/file; sleep .1; echo more >>user/apps/a/usr/link`, "fmore\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "user/apps/a/usr/file f", "user/apps/a/usr/later/x x")
			in(t, p, `ln user/apps/a/usr/file user/apps/a/usr/link`)
			tree, h := watched(t, p)
			n := at(t, tree, "usr/link")
			in(t, p, `ln user/apps/a/usr/file user/apps/a/usr/later/unseen`)
			within(t, "a new name of it", func() bool { return h.name("unseen") && h.node(n) })
			h.forget()
			in(t, p, tc.script)
			within(t, "announced", func() bool { return h.node(n) })
			within(t, tc.want, reads(tree, n, tc.want))
			var e Entry
			must(t, tree.Stat(n, &e))
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(p.Root, "user/apps/a/usr/later/unseen"), &st))
			if e.Nlink != uint32(st.Nlink) {
				t.Errorf("it has %d names, want %d", e.Nlink, st.Nlink)
			}
		})
	}
}

// A file that was looked up when it had one name is the same by those that it gets.
func TestLayersFileGetsAnotherName(t *testing.T) {
	p := project(t, "user/apps/a/usr/file f", "user/apps/a/usr/d/x x")
	tree, h := watched(t, p)
	n := at(t, tree, "usr/file")
	at(t, tree, "usr/d/x")
	in(t, p, `ln user/apps/a/usr/file user/apps/a/usr/d/link`)
	within(t, "announced", func() bool { return h.name("link") && h.node(n) })
	if at(t, tree, "usr/d/link") != n {
		t.Error("two nodes for one file")
	}
	_, err := tree.Write(at(t, tree, "usr/d/link"), []byte("F"), 0)
	must(t, err)
	if !reads(tree, at(t, tree, "usr/file"), "F")() {
		t.Error("what is written by another name isn't seen")
	}
}

// What a layer writes to a file that was edited by another name is seen.
func TestLayersFileThatWasEditedByAnotherName(t *testing.T) {
	p := project(t, "user/apps/a/usr/file f")
	in(t, p, `ln user/apps/a/usr/file user/apps/a/usr/link`)
	tree, h := watched(t, p)
	_, err := tree.Write(at(t, tree, "usr/file"), []byte("F"), 0)
	must(t, err)
	in(t, p, `echo more >>user/apps/a/usr/link`)
	within(t, "announced", func() bool { return h.name("link") })
	if text, err := tree.ReadFile("usr/link"); string(text) != "fmore\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestLayersFileOutlivesTheDirectoryOfAName(t *testing.T) {
	p := project(t, "user/apps/a/usr/d/e/file f")
	in(t, p, `ln user/apps/a/usr/d/e/file user/apps/a/usr/link`)
	tree, h := watched(t, p)
	n := at(t, tree, "usr/d/e/file")
	if n != at(t, tree, "usr/link") {
		t.Fatal("two nodes for one file")
	}
	in(t, p, `mv user/apps/a/usr/d moved`)
	within(t, "announced", func() bool { return h.name("d") && h.node(n) })
	if !reads(tree, n, "f")() {
		t.Error("it can't be read by its other name")
	}
	in(t, p, `echo more >>user/apps/a/usr/link`)
	within(t, "fmore", reads(tree, n, "fmore\n"))
}

// A file that is made anew gets the inode number of the one before, often.
func TestLayersFileMadeAnewIsNoOldOne(t *testing.T) {
	p := project(t, "user/apps/a/usr/file f")
	in(t, p, `ln user/apps/a/usr/file user/apps/a/usr/link`)
	tree, _ := watched(t, p)
	n := at(t, tree, "usr/link")
	in(t, p, `rm user/apps/a/usr/*`)
	within(t, "gone", func() bool { return !has(tree, "usr/file")() && !has(tree, "usr/link")() })
	in(t, p, `echo new >user/apps/a/usr/file; ln user/apps/a/usr/file user/apps/a/usr/link`)
	within(t, "there", has(tree, "usr/link"))
	if at(t, tree, "usr/link") == n {
		t.Error("the new file is the old node")
	}
}

func TestNamesOfLinkedFilesAreForgotten(t *testing.T) {
	p := project(t, "user/apps/a/usr/d/file f", "user/apps/a/usr/e/x x")
	in(t, p, `cd user/apps/a/usr; ln d/file d/link; ln d/file e/link`)
	tree := open(t, p)
	count := func() int { return len(tree.names.of) + len(tree.names.in) }
	e := at(t, tree, "usr/e")
	first, second := at(t, tree, "usr/d/file"), at(t, tree, "usr/d/link")
	third, err := tree.Lookup(e, "link", nil)
	must(t, err)
	if first != second || first != third || count() != 3 {
		t.Fatalf("%p, %p, %p are one file; %d tables", first, second, third, count())
	}
	tree.Release(third, 1)
	tree.Release(e, 1)
	if count() != 2 {
		t.Errorf("a forgotten directory's names are kept: %d tables", count())
	}
	tree.Release(first, 2)
	if count() != 0 {
		t.Errorf("a forgotten file's names are kept: %d tables", count())
	}
}

func TestMovedDirectoryIsWatchedWhereItIs(t *testing.T) {
	p := project(t, "user/apps/a/usr/share/d/sub/x x")
	tree, h := watched(t, p)
	old := at(t, tree, "usr/share/d/sub")
	in(t, p, `mv user/apps/a/usr/share/d user/apps/a/usr/share/e`)
	within(t, "announced", func() bool { return h.name("d") && h.name("e") })
	hold(t, tree, at(t, tree, "usr/share/e"))
	in(t, p, `echo y >user/apps/a/usr/share/e/sub/y`)
	within(t, "y", has(tree, "usr/share/e/sub/y"))
	tree.Release(old, uint64(old.refs.Load()))
	in(t, p, `echo z >user/apps/a/usr/share/e/sub/z`)
	within(t, "z, after the old one was forgotten", has(tree, "usr/share/e/sub/z"))
}

func TestOpenFileKeepsWhatItIs(t *testing.T) {
	for _, tc := range []struct{ name, script string }{
		{"replaced", `echo s >x; chmod 700 x; mv x user/sysconfig/d/f`},
		{"removed", `rm user/sysconfig/d/f`},
		{"its directory moved away", `mv user/sysconfig/d .; mkdir user/sysconfig/d`},
		{"its directory removed", `rm -r user/sysconfig/d; echo s >user/sysconfig/d`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "user/sysconfig/d/f a long old text")
			host := filepath.Join(p.Root, "user/sysconfig/d/f")
			must(t, unix.Setxattr(host, "user.old", []byte("o"), 0))
			must(t, unix.Chmod(host, 0o640))
			tree, _ := watched(t, p)
			n := at(t, tree, "d/f")
			if !reads(tree, n, "a long old text")() {
				t.Fatal("it can't be read")
			}
			in(t, p, tc.script)
			within(t, "taken in", func() bool {
				now, err := find(tree, "d/f")
				return err != nil || now != n
			})
			describe := func() {
				t.Helper()
				var e Entry
				must(t, tree.Stat(n, &e))
				names, err := tree.ListXattr(n)
				must(t, err)
				if e.Size != 15 || e.Mode != unix.S_IFREG|0o640 || e.Nlink != 0 || len(names) != 1 || names[0] != "user.old" {
					t.Errorf("it is %o, %d bytes, %d names, attributes %q", e.Mode, e.Size, e.Nlink, names)
				}
				if v, err := tree.GetXattr(n, "user.old"); err != nil || string(v) != "o" {
					t.Errorf("user.old is %q, %v", v, err)
				}
			}
			describe()
			_, err := tree.Write(n, []byte("A"), 0)
			must(t, err)
			describe()
			if !reads(tree, n, "A long old text")() {
				t.Error("what is written to it isn't read")
			}
		})
	}
}

func TestOrdinaryDirectoriesDontChangeTheLayers(t *testing.T) {
	p := project(t, "user/apps/a/usr/file f", "user/sysconfig/etc/c c")
	in(t, p, `ln -s usr user/apps/a/sbin; mkdir -p user/apps/b/sbin; echo s >user/apps/b/sbin/s`)
	tree, h := watched(t, p)
	n := at(t, tree, "usr/file")
	in(t, p, `mkdir user/sysconfig/etc/dir; ln -s c user/sysconfig/etc/link; mkdir user/sysconfig/opt`)
	within(t, "there", func() bool { return has(tree, "etc/dir")() && has(tree, "etc/link")() && has(tree, "opt")() })
	in(t, p, `rmdir user/sysconfig/etc/dir; rm user/sysconfig/etc/link`)
	within(t, "gone", func() bool { return !has(tree, "etc/dir")() && !has(tree, "etc/link")() })
	if h.node(n) {
		t.Error("all was looked at")
	}
}

func TestPackagesDirectoryFollowsALiveLink(t *testing.T) {
	for _, tc := range []struct{ name, script, want string }{
		{"the link goes", `rm user/apps/a/sbin`, "sbin/s"},
		{"the link leads elsewhere", `ln -s opt x; mv -T x user/apps/a/sbin`, "opt/s"},
		{"the link becomes a file", `rm user/apps/a/sbin; echo f >user/apps/a/sbin`, "sbin/s"},
		{"its target goes", `rm -r user/apps/a/usr/sbin`, "sbin/s"},
		{"its target comes back", `rm -r user/apps/a/usr/sbin; sleep .1; mkdir user/apps/a/usr/sbin`, "usr/sbin/s"},
		{"its target becomes a link", `rm -r user/apps/a/usr/sbin; ln -s ../opt user/apps/a/usr/sbin`, "opt/s"},
		{"a new link for another", `mv user/apps/a/lib64 x; sleep .1; ln -s opt user/apps/a/lib64`, "opt/l"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "user/apps/a/usr/sbin/x x", "user/apps/a/opt/x x", "user/apps/a/lib64 f",
				"user/apps/b/sbin/s s", "user/apps/b/lib64/l l")
			in(t, p, `ln -s usr/sbin user/apps/a/sbin`)
			tree, _ := watched(t, p)
			if !has(tree, "usr/sbin/s")() || !has(tree, "lib64/l")() {
				t.Fatal(dump(t, tree))
			}
			in(t, p, tc.script)
			within(t, tc.want, func() bool {
				n, err := find(tree, filepath.Dir(tc.want))
				return err == nil && n.path() == filepath.Dir(tc.want) && has(tree, tc.want)()
			})
			was := strings.Split(dump(t, tree), "\n")
			must(t, tree.Close())
			now := strings.Split(dump(t, open(t, p)), "\n")
			sortLines(was)
			sortLines(now)
			if !slices.Equal(now, was) {
				t.Errorf("it is %q, and when it is opened again %q", was, now)
			}
		})
	}
}

func TestNewDirectoryFollowsAnArchivesLink(t *testing.T) {
	for _, layer := range []string{"user/apps/z", "user/sysconfig"} {
		p := project(t, "base/usr/bin/x x", layer+"/usr/bin/y y")
		in(t, p, `ln -s usr/bin base/bin; mkdir -p user/apps; tar -C base -cf user/apps/a.tar .`)
		tree, _ := watched(t, p)
		in(t, p, fmt.Sprintf(`mkdir %s/bin; echo s >%[1]s/bin/sh`, layer))
		within(t, layer+"'s usr/bin/sh", has(tree, "usr/bin/sh"))
	}
}

func TestMovedDirectoryKeepsItsLayer(t *testing.T) {
	p := project(t, "user/apps/a/usr/share/sub/x x", "user/apps/a/usr/share/gone g", "user/apps/a/usr/file f")
	tree, h := watched(t, p)
	share := at(t, tree, "usr/share")
	must(t, tree.Rename(share, "sub", share, "moved", 0))
	must(t, tree.Unlink(share, "gone"))
	file := at(t, tree, "usr/file")
	in(t, p, `cd user/apps/a/usr/share; rm gone; sleep .05; echo g >gone; sleep .05; echo new >new`)
	within(t, "new", has(tree, "usr/share/new"))
	if h.node(file) {
		t.Error("for a hidden file, all was looked at")
	}
	in(t, p, `cd user/apps/a/usr/share; rm -r sub; sleep .1; mkdir sub; sleep .1; echo y >sub/y`)
	within(t, "made anew", has(tree, "usr/share/moved/y"))
	in(t, p, `cd user/apps/a/usr/share; mv sub old; mkdir new.sub; echo z >new.sub/z; mv new.sub sub`)
	within(t, "replaced", has(tree, "usr/share/moved/z"))
	in(t, p, `mv user/apps/a/usr/share/sub away`)
	within(t, "gone", func() bool { return !has(tree, "usr/share/moved/z")() })
	in(t, p, `mv away user/apps/a/usr/share/sub`)
	within(t, "back", has(tree, "usr/share/moved/z"))
	if has(tree, "usr/share/sub")() {
		t.Error("its old name is back")
	}
}

func TestMovedDirectoryKeepsItsLayerWhenItsNameIsInUse(t *testing.T) {
	for _, use := range []struct {
		name string
		make func(tree *Tree, share *Node) error
	}{
		{"a directory", func(tree *Tree, share *Node) error {
			_, err := tree.Mkdir(share, "sub", 0o755, Owner{}, nil)
			return err
		}},
		{"another moved one", func(tree *Tree, share *Node) error {
			return tree.Rename(share, "other", share, "sub", 0)
		}},
		{"a file", func(tree *Tree, share *Node) error {
			_, err := tree.Mknod(share, "sub", 0o644, 0, Owner{}, nil)
			return err
		}},
	} {
		t.Run(use.name, func(t *testing.T) {
			p := project(t, "user/sysconfig/share/sub/x x", "user/sysconfig/share/other/o o")
			tree, _ := watched(t, p)
			share := at(t, tree, "share")
			must(t, tree.Rename(share, "sub", share, "moved", 0))
			must(t, use.make(tree, share))
			in(t, p, `cd user/sysconfig/share; mv sub old; mkdir new; echo y >new/y; mv new sub`)
			within(t, "replaced", func() bool { return has(tree, "share/moved/y")() && !has(tree, "share/moved/x")() })
			in(t, p, `rm -r user/sysconfig/share/sub`)
			within(t, "gone", func() bool { return !has(tree, "share/moved/y")() })
			in(t, p, `cd user/sysconfig/share; mkdir new; echo z >new/z; mv new sub`)
			within(t, "back", has(tree, "share/moved/z"))
			if has(tree, "share/sub/z")() {
				t.Error("it is also where its name is in use")
			}
		})
	}
}

// Also when what leads there changes, and when nobody has looked there.
func TestMovedDirectoryKeepsItsLayerFromAfar(t *testing.T) {
	for _, seen := range []bool{false, true} {
		p := project(t, "user/sysconfig/p/q/a/x x", "user/sysconfig/p/q/y y")
		tree, h := watched(t, p)
		must(t, tree.Rename(at(t, tree, "p/q"), "a", tree.Root(), "m", 0))
		if !seen {
			must(t, tree.Close())
			tree = open(t, p)
			tree.Watch(h)
			hold(t, tree, at(t, tree, "m"))
		}
		for i, script := range []string{
			`rm -r p/q/a; sleep .1; mkdir p/q/a`,
			`mv p/q ../q; sleep .1; mkdir p/q; sleep .1; mkdir p/q/a`,
			`rm -r p; sleep .1; mkdir -p p/q/a`,
			`mv p ../p; sleep .1; mkdir p; sleep .1; mkdir p/q; sleep .1; mkdir p/q/a`,
			`mv p old; mkdir -p new/q/a; mv new p`,
		} {
			in(t, p, fmt.Sprintf("cd user/sysconfig; %s; sleep .1; echo >p/q/a/%d", script, i))
			within(t, script, has(tree, fmt.Sprintf("m/%d", i)))
			if has(tree, "m/x")() || i > 0 && has(tree, fmt.Sprintf("m/%d", i-1))() {
				t.Errorf("seen %v, after %s: what was before is still there", seen, script)
			}
		}
	}
}

// A listing tells of directories what they are before anybody enters them.
func TestDirectoriesAreLiveBeforeTheyAreRead(t *testing.T) {
	p := project(t, "user/sysconfig/d/e/x x", "user/sysconfig/d/file f")
	in(t, p, `cd user/sysconfig/d; ln file e/link`)
	tree := open(t, p)
	h := &heard{names: make(map[string]bool), nodes: make(map[*Node]bool), early: make(map[string]bool)}
	tree.Watch(h)
	dir, file := at(t, tree, "d/e"), at(t, tree, "d/file")
	in(t, p, `echo >user/sysconfig/d/e/new`)
	within(t, "another time of the directory", func() bool { return h.node(dir) })
	if dir.dir.loaded {
		t.Fatal("the directory was read")
	}
	h.forget()
	in(t, p, `echo new >user/sysconfig/d/e/link`)
	within(t, "written by a name in it", func() bool { return h.node(file) })
	h.forget()
	in(t, p, `cd user/sysconfig/d; mv e old; mkdir e; sleep .1; echo >e/another`)
	within(t, "the one in its place", has(tree, "d/e/another"))
	dir = at(t, tree, "d/e")
	h.forget()
	in(t, p, `chmod 700 user/sysconfig/d/e`)
	within(t, "another mode", func() bool { return h.node(dir) })
}

// What can't be read keeps nothing else from being seen.
func TestLayersAreLiveBesideADirectoryThatCantBeRead(t *testing.T) {
	p := project(t, "user/sysconfig/a/x x", "user/sysconfig/b/x x", "user/sysconfig/c/x x")
	tree := open(t, p)
	hold(t, tree, tree.Root())
	must(t, os.Chmod(filepath.Join(p.Root, "user/sysconfig/b"), 0))
	save(t, filepath.Join(p.Root, "user/sysconfig/c/new"), nil)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and this thread ends with the goroutine
		must(t, unix.Setfsuid(65534))
		done <- tree.renewAll(new(news))
	}()
	if err := <-done; !errors.Is(err, unix.EACCES) {
		t.Skipf("SKIPPED, needs another user: %v", err)
	}
	if !has(tree, "c/new")() {
		t.Error("what is behind it isn't seen")
	}
}
