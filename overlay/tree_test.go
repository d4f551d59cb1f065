package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// project makes a project from lines "path content", a path that ends in "/"
// being a directory and a content that starts with "->" a symlink.
func project(t *testing.T, lines ...string) *Project {
	t.Helper()
	root := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(root, "cache"))
	root = filepath.Join(root, "project")
	for _, line := range lines {
		path, content, _ := strings.Cut(line, " ")
		host := filepath.Join(root, path)
		must(t, os.MkdirAll(filepath.Dir(host), 0o755))
		switch target, link := strings.CutPrefix(content, "->"); {
		case strings.HasSuffix(path, "/"):
			must(t, os.MkdirAll(host, 0o755))
		case link:
			must(t, os.Symlink(target, host))
		default:
			must(t, os.WriteFile(host, []byte(strings.ReplaceAll(content, "|", "\n")), 0o644))
		}
	}
	p, err := Find(root, "")
	must(t, err)
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, p *Project) *Tree {
	t.Helper()
	tree, err := Open(p, Options{})
	must(t, err)
	t.Cleanup(func() {
		if err := tree.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return tree
}

// at looks a path up.
func at(t *testing.T, tree *Tree, path string) *Node {
	t.Helper()
	n, err := find(tree, path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

func find(tree *Tree, path string) (*Node, error) {
	n := tree.Root()
	if path == "." {
		return n, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		next, err := tree.Lookup(n, name, nil)
		if err != nil {
			return nil, err
		}
		n = next
	}
	return n, nil
}

// dump gives a line a path: "path mode uid:gid content".
func dump(t *testing.T, tree *Tree) string {
	t.Helper()
	var b strings.Builder
	var walk func(dir *Node, path string)
	walk = func(dir *Node, path string) {
		var buf [64]DirEntry
		var names []string
		for cookie := uint64(0); ; {
			k, err := tree.ReadDir(dir, cookie, buf[:])
			must(t, err)
			for _, e := range buf[:k] {
				names, cookie = append(names, e.Name), e.Cookie
			}
			if k < len(buf) {
				break
			}
		}
		for _, name := range names {
			var e Entry
			n, err := tree.Lookup(dir, name, &e)
			if errors.Is(err, unix.ENOENT) {
				continue // a layer lost it since
			}
			if err != nil {
				t.Fatalf("%s%s: %v", path, name, err)
			}
			fmt.Fprintf(&b, "%s%s %o %d:%d%s\n", path, name, e.Mode, e.UID, e.GID, content(t, tree, n, &e))
			if n.dir != nil {
				walk(n, path+name+"/")
			}
			tree.Release(n, 1)
		}
	}
	walk(tree.Root(), "")
	return b.String()
}

func content(t *testing.T, tree *Tree, n *Node, e *Entry) string {
	switch n.Type() {
	case unix.S_IFREG:
		buf := make([]byte, e.Size+1)
		k, err := tree.Read(n, buf, 0)
		must(t, err)
		return fmt.Sprintf(" %q", buf[:k])
	case unix.S_IFLNK:
		target, err := tree.Readlink(n)
		must(t, err)
		return " ->" + target
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf(" %d:%d", unix.Major(e.Rdev), unix.Minor(e.Rdev))
	}
	return ""
}

func expect(t *testing.T, tree *Tree, want ...string) {
	t.Helper()
	got := dump(t, tree)
	if w := strings.Join(want, "\n") + "\n"; got != w {
		t.Errorf("the tree is\n%swant\n%s", got, w)
	}
}

func TestLaterLayerWins(t *testing.T) {
	tree := open(t, project(t,
		"user/apps/a/etc/conf a", "user/apps/a/bin/a A",
		"user/apps/b/etc/conf b", "user/apps/b/etc/more/ ", "user/apps/b/usr/x x",
		"user/sysconfig/etc/conf s", "user/sysconfig/usr file over directory"))
	expect(t, tree,
		`bin 40755 0:0`, `bin/a 100644 0:0 "A"`,
		`etc 40755 0:0`, `etc/conf 100644 0:0 "s"`, `etc/more 40755 0:0`,
		`usr 100644 0:0 "file over directory"`)
}

func TestLayersShowNoUmask(t *testing.T) {
	p := project(t, "user/sysconfig/etc/motd hello", "user/sysconfig/tmp/")
	config := filepath.Join(p.Root, "user/sysconfig")
	must(t, os.Chmod(filepath.Join(config, "etc"), 0o777))
	must(t, os.Chmod(filepath.Join(config, "etc/motd"), 0o666))
	must(t, os.Chmod(filepath.Join(config, "tmp"), 0o777|os.ModeSticky))
	expect(t, open(t, p),
		`etc 40755 0:0`,
		`etc/motd 100644 0:0 "hello"`,
		`tmp 41777 0:0`, // made so by intent
	)
}

func TestPackageKeepsUsrMergeLinks(t *testing.T) {
	tree := open(t, project(t,
		`rootfs.toml [base]|source = "base"`,
		"base/usr/bin/sh sh", "base/bin ->usr/bin", "base/run/ ", "base/var/run ->/run",
		"user/apps/a/bin/x x", "user/apps/a/var/run/pid 1",
		"user/apps/b/bin/sub/y y", "user/apps/b/usr/bin/x newer"))
	expect(t, tree,
		`bin 120777 0:0 ->usr/bin`,
		`run 40755 0:0`, `run/pid 100644 0:0 "1"`,
		`usr 40755 0:0`, `usr/bin 40755 0:0`, `usr/bin/sh 100644 0:0 "sh"`,
		`usr/bin/sub 40755 0:0`, `usr/bin/sub/y 100644 0:0 "y"`, `usr/bin/x 100644 0:0 "newer"`,
		`var 40755 0:0`, `var/run 120777 0:0 ->/run`)
}

func TestManifestEntries(t *testing.T) {
	tree := open(t, project(t,
		`rootfs.toml remove = ["/usr/share/doc"]|[[file]]|path = "/dev/console"|type = "char"|major = 5|minor = 1|mode = "0600"`+
			`|[[file]]|path = "/bin/su"|mode = "4750"|gid = 7|[[file]]|path = "/bin/su"|mode = "4755"|[[file]]|path = "/init"|type = "symlink"|target = "/bin/su"`,
		"user/apps/a/bin/su su", "user/apps/a/usr/share/doc/x x", "user/apps/a/usr/share/y y"))
	expect(t, tree,
		`bin 40755 0:0`, `bin/su 104755 0:7 "su"`,
		`dev 40755 0:0`, `dev/console 20600 0:0 5:1`,
		`init 120777 0:0 ->/bin/su`,
		`usr 40755 0:0`, `usr/share 40755 0:0`, `usr/share/y 100644 0:0 "y"`)
	// A first write records what the manifest said.
	n := at(t, tree, "bin/su")
	if _, err := tree.Write(n, []byte("SU"), 0); err != nil {
		t.Fatal(err)
	}
	var e Entry
	must(t, tree.Stat(n, &e))
	if e.Mode != 0o104755 || e.GID != 7 {
		t.Errorf("after copy-up: mode %o gid %d", e.Mode, e.GID)
	}
}

// What the manifest says of one name of a file holds for all, whichever is looked
// up first.
func TestManifestOnAFileWithSeveralNames(t *testing.T) {
	p := project(t, `rootfs.toml [[file]]|path = "/bin/su"|mode = "4755"|[[file]]|path = "/bin/box"|gid = 7`,
		"user/apps/a/bin/box box", "user/apps/a/sbin/x x")
	in(t, p, `ln user/apps/a/bin/box user/apps/a/bin/su; ln user/apps/a/bin/box user/apps/a/sbin/init`)
	tree, h := watched(t, p)
	var e Entry
	shown := func(path, want string) func() bool {
		return func() bool {
			n, err := find(tree, path)
			return err == nil && tree.Stat(n, &e) == nil && fmt.Sprintf("%o %d:%d", e.Mode, e.UID, e.GID) == want
		}
	}
	for _, path := range []string{"sbin/init", "bin/su", "bin/box"} {
		if !shown(path, "104755 0:7")() {
			t.Errorf("%s: mode %o gid %d", path, e.Mode, e.GID)
		}
	}
	n := at(t, tree, "sbin/init")
	h.forget()
	in(t, p, `echo su >x; mv x user/apps/a/bin/su`)
	within(t, "another su", func() bool { return h.name("su") && h.node(n) })
	if !shown("sbin/init", "100644 0:7")() || !shown("bin/su", "104755 0:0")() {
		t.Errorf("without its name su: mode %o gid %d", e.Mode, e.GID)
	}
	in(t, p, `ln -f user/apps/a/sbin/init user/apps/a/bin/su`)
	within(t, "linked again", shown("sbin/init", "104755 0:7"))
	in(t, p, `printf '[[file]]\npath = "/bin/su"\nuid = 5\n' >rootfs.toml`)
	within(t, "another manifest", shown("sbin/init", "100644 5:0"))
	in(t, p, `rm user/apps/a/bin/box user/apps/a/sbin/init`)
	within(t, "one name", func() bool { return shown("bin/su", "100644 5:0")() && e.Nlink == 1 })
}

// What the manifest names only on the way to something doesn't take a link's place.
func TestManifestKeepsUsrMergeLinks(t *testing.T) {
	tree := open(t, project(t,
		`rootfs.toml remove = ["/bin/su", "/sbin"]|[base]|source = "base"|[[file]]|path = "/bin/x/fifo"|type = "fifo"`+
			`|[[file]]|path = "/sbin/init"|type = "symlink"|target = "/init"|[[file]]|path = "/lib"|type = "dir"`,
		"base/usr/bin/su su", "base/usr/bin/sh sh", "base/bin ->usr/bin",
		"base/usr/sbin/s s", "base/sbin ->usr/sbin", "base/usr/lib/l l", "base/lib ->usr/lib"))
	expect(t, tree,
		`bin 120777 0:0 ->usr/bin`,
		`lib 40755 0:0`, // asked for
		`sbin 40755 0:0`, `sbin/init 120777 0:0 ->/init`,
		`usr 40755 0:0`, `usr/bin 40755 0:0`, `usr/bin/sh 100644 0:0 "sh"`,
		`usr/bin/x 40755 0:0`, `usr/bin/x/fifo 10644 0:0`,
		`usr/lib 40755 0:0`, `usr/lib/l 100644 0:0 "l"`,
		`usr/sbin 40755 0:0`, `usr/sbin/s 100644 0:0 "s"`)
}

// What it changes may be named through the links of the layers, too.
func TestManifestChangesThroughLinks(t *testing.T) {
	p := project(t,
		`rootfs.toml [base]|source = "base"|[[file]]|path = "/bin/su"|mode = "4755"|[[file]]|path = "/bin/x/y"|uid = 7`+
			`|[[file]]|path = "/bin"|gid = 8|[[file]]|path = "/usr/bin/su"|gid = 9`,
		"base/usr/bin/su su", "base/bin ->usr/bin", "user/apps/a/bin/x/y y")
	tree := open(t, p)
	want := []string{
		`bin 120777 0:8 ->usr/bin`,
		`usr 40755 0:0`, `usr/bin 40755 0:0`, `usr/bin/su 104755 0:9 "su"`,
		`usr/bin/x 40755 0:0`, `usr/bin/x/y 100644 7:0 "y"`,
	}
	expect(t, tree, want...)
	must(t, tree.renewAll(new(news)))
	expect(t, tree, want...)
	must(t, os.WriteFile(p.Manifest.File, []byte("[base]\nsource = \"base\"\n[[file]]\npath = \"/bin/gone\"\nuid = 1"), 0o644))
	p, err := Find(p.Root, "")
	must(t, err)
	const says = `[[file]] "/bin/gone": no layer has it`
	if _, err := Open(p, Options{ReadOnly: true}); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%v, want %q", err, says)
	}
}

// Nor does a directory of the configuration.
func TestConfigurationKeepsUsrMergeLinks(t *testing.T) {
	p := project(t, `rootfs.toml [base]|source = "base"`,
		"base/usr/lib/libc c", "base/lib ->usr/lib", "user/sysconfig/lib/modules/m m", "user/sysconfig/lib/libc mine")
	expect(t, open(t, p),
		`lib 120777 0:0 ->usr/lib`, `usr 40755 0:0`, `usr/lib 40755 0:0`, `usr/lib/libc 100644 0:0 "mine"`,
		`usr/lib/modules 40755 0:0`, `usr/lib/modules/m 100644 0:0 "m"`)
}

// What is removed goes whole, whatever is made in its place and in which order
// the paths are named.
func TestManifestRemovesWhole(t *testing.T) {
	for _, remove := range []string{
		`"/var/cache", "/var/cache/apt", "/usr/share/doc"`,
		`"/usr/share/doc", "/var/cache/apt", "/var/cache"`,
	} {
		tree := open(t, project(t,
			`rootfs.toml remove = [`+remove+`]|[[file]]|path = "/var/cache"|type = "dir"|mode = "0700"|gid = 7`+
				`|[[file]]|path = "/usr/share/doc/new/fifo"|type = "fifo"`,
			"user/apps/a/var/cache/apt/x x", "user/apps/a/var/cache/y y", "user/apps/a/usr/share/doc/z/z z"))
		expect(t, tree,
			`usr 40755 0:0`, `usr/share 40755 0:0`, `usr/share/doc 40755 0:0`,
			`usr/share/doc/new 40755 0:0`, `usr/share/doc/new/fifo 10644 0:0`,
			`var 40755 0:0`, `var/cache 40700 0:7`)
	}
}

// Of several entries for one path the last counts, whatever the others are.
func TestManifestMakesTheLast(t *testing.T) {
	entry := func(path, typ string) string { return `[[file]]|path = "/` + path + `"|type = "` + typ + `"|` }
	tree := open(t, project(t, "rootfs.toml "+
		entry("d", "fifo")+entry("d", "dir")+entry("d/f", "fifo")+
		entry("e", "dir")+entry("e", "fifo")+entry("e", "dir")+entry("e/f", "fifo")+
		entry("f", "dir")+entry("f", "fifo")))
	expect(t, tree, `d 40755 0:0`, `d/f 10644 0:0`, `e 40755 0:0`, `e/f 10644 0:0`, `f 10644 0:0`)
}

func TestManifestThatCantBe(t *testing.T) {
	long := strings.Repeat("a/", unix.PathMax/2)
	for manifest, want := range map[string]string{
		"[[file]]|path = \"/a\"|type = \"symlink\"|target = \"" + long + "\"":              `rootfs.toml:2:8: "/a": its target can't be in a symlink`,
		"[[file]]|path = \"/a\"|type = \"char\"|major = 4096":                              `rootfs.toml:2:8: "/a": device 4096:0 is more than Linux takes, 4095:1048575`,
		"[[file]]|path = \"/a\"|type = \"block\"|minor = 1048576":                          `rootfs.toml:2:8: "/a": device 0:1048576 is more than Linux takes, 4095:1048575`,
		"[[file]]|path = \"/a\"|uid = 4294967295":                                          `rootfs.toml:2:8: "/a": nobody can be user or group 4294967295: use a smaller number`,
		"[[file]]|path = \"/a\"|type = \"symlink\"|target = \"b\\u0000\"":                  `rootfs.toml:2:8: "/a": its target can't be in a symlink`,
		"[[file]]|path = \"/a\"|type = \"fifo\"|[[file]]|path = \"/a/b/c\"|type = \"dir\"": `rootfs.toml:5:8: "/a/b/c": lies in "/a", which is to be a fifo`,
		"remove = [\"/a/b\"]|[[file]]|path = \"/a\"|type = \"symlink\"|target = \"/c\"":    `rootfs.toml:1:11: "/a/b": lies in "/a", which is to be a symlink`,
	} {
		root := t.TempDir()
		must(t, os.WriteFile(filepath.Join(root, ManifestName), []byte(strings.ReplaceAll(manifest, "|", "\n")), 0o644))
		if _, err := Find(root, ""); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want %q at its end", err, want)
		}
	}
}

func TestConfigurationIsNotTheState(t *testing.T) {
	p := project(t, `rootfs.toml [sysconfig]|path = "."`, "user/apps/a/usr/y z", ".rootfs/edits/secret s")
	if _, err := Open(p, Options{ReadOnly: true}); err == nil || !strings.Contains(err.Error(), "holds this project's own state") {
		t.Errorf("%v", err)
	}
}

// What a person's umask is shows nowhere, in the cache neither.
func TestManifestHasNoUmask(t *testing.T) {
	p := project(t, `rootfs.toml remove = ["/x/y"]|[[file]]|path = "/a/b/c"|type = "dir"`, "user/sysconfig/f f")
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	tree, err := Open(p, Options{ReadOnly: true})
	must(t, err)
	t.Cleanup(func() { must(t, tree.Close()) })
	expect(t, tree, `a 40755 0:0`, `a/b 40755 0:0`, `a/b/c 40755 0:0`, `f 100644 0:0 "f"`, `x 40755 0:0`)
}

// edits makes one change of each kind.
func edits(t *testing.T, tree *Tree) {
	t.Helper()
	root := tree.Root()
	etc := at(t, tree, "etc")
	_, err := tree.Write(at(t, tree, "etc/conf"), []byte("!"), 4)
	must(t, err)
	deep, err := tree.Mkdir(root, "new", 0o1777, Owner{UID: 5, GID: 6}, nil)
	must(t, err)
	f, err := tree.Mknod(deep, "file", 0o640, 0, Owner{}, nil)
	must(t, err)
	_, err = tree.Write(f, []byte("deep"), 0)
	must(t, err)
	must(t, tree.Unlink(etc, "gone"))
	must(t, tree.Rename(root, "lib", deep, "moved", 0))
	must(t, tree.Link(at(t, tree, "etc/conf"), etc, "hard"))
	mode, uid := uint32(0o4711), uint32(1000)
	must(t, tree.SetAttr(at(t, tree, "bin/a"), &Change{Mode: &mode}))
	must(t, tree.SetAttr(at(t, tree, "bin"), &Change{UID: &uid}))
	_, err = tree.Symlink(etc, "link", "conf", Owner{}, nil)
	must(t, err)
	_, err = tree.Mknod(root, "null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3), Owner{}, nil)
	must(t, err)
	must(t, tree.Rmdir(root, "srv"))
	_, err = tree.Mkdir(root, "srv", 0o755, Owner{}, nil) // opaque
	must(t, err)
	must(t, tree.SetXattr(at(t, tree, "etc/conf"), "security.capability", []byte("cap"), 0))
}

var edited = []string{
	`bin 40755 1000:0`, `bin/a 104711 0:0 "A"`,
	`etc 40755 0:0`, `etc/conf 100644 0:0 "conf!"`, `etc/hard 100644 0:0 "conf!"`, `etc/link 120777 0:0 ->conf`,
	`new 41777 5:6`, `new/file 100640 0:0 "deep"`, `new/moved 40755 0:0`, `new/moved/sub 40755 0:0`, `new/moved/sub/x 100644 0:0 "x"`,
	`null 20666 0:0 1:3`,
	`srv 40755 0:0`,
}

func editProject(t *testing.T) *Project {
	return project(t, "user/apps/a/bin/a A", "user/apps/a/lib/sub/x x", "user/apps/a/srv/ ",
		"rootfs.toml [apps]|path = \"user/apps\"",
		"user/sysconfig/etc/conf conf", "user/sysconfig/etc/gone gone")
}

func TestEditsStay(t *testing.T) {
	p := editProject(t)
	before := hostDump(t, filepath.Join(p.Root, "user"))
	tree, err := Open(p, Options{})
	must(t, err)
	edits(t, tree)
	got := strings.Split(strings.TrimSpace(dump(t, tree)), "\n")
	sortLines(got)
	want := append([]string(nil), edited...)
	sortLines(want)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the tree is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	ino := inoOf(t, tree, "etc/conf")
	must(t, tree.Close())
	if after := hostDump(t, filepath.Join(p.Root, "user")); after != before {
		t.Errorf("the layers changed:\n%s\nwere\n%s", after, before)
	}
	tree = open(t, p)
	expect(t, tree, edited...)
	if again := inoOf(t, tree, "etc/hard"); again != ino {
		t.Errorf("inode %d became %d", ino, again)
	}
	v, err := tree.GetXattr(at(t, tree, "etc/conf"), "security.capability")
	if err != nil || string(v) != "cap" {
		t.Errorf("capability %q, %v", v, err)
	}
	if left, err := os.ReadDir(filepath.Join(p.StateDir(), "edits/0001/work")); err != nil || len(left) > 0 {
		t.Errorf("left in work: %v %v", left, err)
	}
}

func inoOf(t *testing.T, tree *Tree, path string) uint64 {
	t.Helper()
	var e Entry
	must(t, tree.Stat(at(t, tree, path), &e))
	return e.Ino
}

func TestLowerLinksStayLinked(t *testing.T) {
	p := project(t, "user/sysconfig/a one", "user/sysconfig/c other")
	must(t, os.Link(filepath.Join(p.Root, "user/sysconfig/a"), filepath.Join(p.Root, "user/sysconfig/b")))
	for range 2 { // the second time after opening again
		tree, err := Open(p, Options{})
		must(t, err)
		if _, err := tree.Write(at(t, tree, "a"), []byte("two"), 0); err != nil {
			t.Fatal(err)
		}
		if a, b := inoOf(t, tree, "a"), inoOf(t, tree, "b"); a != b {
			t.Errorf("inodes %d and %d", a, b)
		}
		expect(t, tree, `a 100644 0:0 "two"`, `b 100644 0:0 "two"`, `c 100644 0:0 "other"`)
		must(t, tree.Close())
	}
	tree := open(t, p)
	must(t, tree.Unlink(tree.Root(), "a"))
	expect(t, tree, `b 100644 0:0 "two"`, `c 100644 0:0 "other"`)
	var e Entry
	if must(t, tree.Stat(at(t, tree, "b"), &e)); e.Nlink != 1 {
		t.Errorf("nlink %d", e.Nlink)
	}
	must(t, tree.Rename(tree.Root(), "b", tree.Root(), "d", 0))
	expect(t, tree, `c 100644 0:0 "other"`, `d 100644 0:0 "two"`)
}

func TestRemovedFileKeepsItsContent(t *testing.T) {
	tree := open(t, project(t, "user/sysconfig/lower low", "user/sysconfig/up up"))
	root := tree.Root()
	for _, name := range []string{"lower", "up"} {
		n := at(t, tree, name)
		if name == "up" {
			_, err := tree.Write(n, []byte("UP"), 0)
			must(t, err)
		}
		must(t, tree.Unlink(root, name))
		if _, err := tree.Write(n, []byte("X"), 0); err != nil {
			t.Errorf("write %s: %v", name, err)
		}
		var e Entry
		if err := tree.Stat(n, &e); err != nil || e.Nlink != 0 {
			t.Errorf("%s: nlink %d, %v", name, e.Nlink, err)
		}
		tree.Release(n, 1)
	}
	if got := dump(t, tree); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestNoNameFromInside(t *testing.T) {
	tree := open(t, project(t, "user/sysconfig/f f"))
	n := at(t, tree, "f")
	for _, name := range []string{xattrMeta, xattrOpaque, xattrForeign + "user.x"} {
		if err := tree.SetXattr(n, name, []byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("set %s: %v", name, err)
		}
		if _, err := tree.GetXattr(n, name); !errors.Is(err, unix.ENODATA) {
			t.Errorf("get %s: %v", name, err)
		}
	}
}

func TestOneEditor(t *testing.T) {
	p := project(t, "user/sysconfig/f f")
	open(t, p)
	var locked *LockedError
	if _, err := Open(p, Options{}); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("second: %v", err)
	}
	reader, err := Open(p, Options{ReadOnly: true})
	must(t, err)
	t.Cleanup(func() { must(t, reader.Close()) })
	if err := reader.Unlink(reader.Root(), "f"); !errors.Is(err, unix.EROFS) {
		t.Errorf("unlink: %v", err)
	}
}

// What the manifest says of one name of a file is so by all its names, whichever
// is looked up first.
func TestManifestChangesLinkedFiles(t *testing.T) {
	for _, path := range []string{"d/a", "d/b"} {
		p := project(t, `rootfs.toml [[file]]|path = "/`+path+`"|mode = "0600"|[[file]]|path = "/d/b"|uid = 7`, "user/sysconfig/d/a x")
		a := filepath.Join(p.Root, "user/sysconfig/d/a")
		must(t, os.Link(a, filepath.Join(filepath.Dir(a), "b")))
		for _, first := range []string{"d/a", "d/b"} {
			tree, err := Open(p, Options{ReadOnly: true})
			must(t, err)
			at(t, tree, first)
			expect(t, tree, `d 40755 0:0`, `d/a 100600 7:0 "x"`, `d/b 100600 7:0 "x"`)
			must(t, tree.Close())
		}
	}
}
