package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// One suite of cases, layers and edits in and a line a path out, for every way
// to look at a tree: the merged tree itself, the mount, the layer tar and the
// disk image.

// conformance is one case.
type conformance struct {
	name   string
	layers string // a txtar of the project; a file's first line may be "#!sh", to be run in its folder
	edit   string // a shell script, run in the mount by who mounted
	want   string // a line a path: path, type and mode, owner, and what it is
}

var conformanceCases = []conformance{
	{
		name: "the later layer wins, directories merge",
		layers: `
-- user/apps/a/etc/conf --
a
-- user/apps/a/usr/share/a --
-- user/apps/b/etc/conf --
b
-- user/apps/b/usr/share/b --
-- user/sysconfig/etc/conf --
sysconfig
`,
		want: `
etc d0755 0:0
etc/conf -0644 0:0 "sysconfig\n"
usr d0755 0:0
usr/share d0755 0:0
usr/share/a -0644 0:0 ""
usr/share/b -0644 0:0 ""
`,
	},
	{
		name: "a file over a directory hides it, a directory over a file too",
		layers: `
-- user/apps/a/etc/x/below --
-- user/apps/a/etc/y --
-- user/sysconfig/etc/x --
file
-- user/sysconfig/etc/y/above --
`,
		want: `
etc d0755 0:0
etc/x -0644 0:0 "file\n"
etc/y d0755 0:0
etc/y/above -0644 0:0 ""
`,
	},
	{
		name: "a checkout's owner and umask don't leak",
		layers: `
-- user/sysconfig/setup --
#!sh
mkdir -p etc/open; echo x >etc/open/file; ln -s file etc/open/link
chmod 777 etc/open; chmod 666 etc/open/file; chown -hR 1000:1000 etc
`,
		want: `
etc d0755 0:0
etc/open d0755 0:0
etc/open/file -0644 0:0 "x\n"
etc/open/link l0777 0:0 -> file
`,
	},
	{
		name: "a base with merged /usr keeps its links",
		layers: `
-- rootfs.toml --
[base]
source = "base"
-- base/setup --
#!sh
mkdir -p usr/bin usr/lib run var; echo sh >usr/bin/sh; ln -s usr/bin bin; ln -s usr/lib lib; ln -s /run var/run
-- user/apps/x/bin/x --
program
-- user/apps/x/lib/libx.so --
-- user/apps/x/var/run/x/pid --
`,
		edit: `rm lib && mkdir lib && echo own >lib/file`,
		want: `
bin l0777 0:0 -> usr/bin
lib d0755 0:0
lib/file -0644 0:0 "own\n"
run d0755 0:0
run/x d0755 0:0
run/x/pid -0644 0:0 ""
usr d0755 0:0
usr/bin d0755 0:0
usr/bin/sh -0644 0:0 "sh\n"
usr/bin/x -0644 0:0 "program\n"
usr/lib d0755 0:0
usr/lib/libx.so -0644 0:0 ""
var d0755 0:0
var/run l0777 0:0 -> /run
`,
	},
	{
		name: "an archive keeps what it says",
		layers: `
-- rootfs.toml --
[base]
source = "base.tar.gz"
-- setup --
#!sh
mkdir t && cd t && mkdir -m 1777 tmp && mkdir -m 2750 srv && chown 0:33 srv
echo s >srv/secret && chown 33:70000 srv/secret && chmod 4640 srv/secret && ln srv/secret srv/linked
ln -s ../tmp srv/t && mknod tmp/null c 1 3 && mkfifo tmp/p && setfattr -n user.k -v v srv/secret
tar --xattrs -czf ../base.tar.gz . && cd .. && rm -r t
-- user/sysconfig/tmp/.wh.literal --
`,
		edit: `echo more >>srv/linked; chmod 4640 srv/linked # which the write of a user takes away`,
		want: `
srv d2750 0:33
srv/linked -4640 33:70000 "s\nmore\n" = srv/secret user.k="v"
srv/secret -4640 33:70000 "s\nmore\n" = srv/linked user.k="v"
srv/t l0777 0:33 -> ../tmp
tmp d0755 0:0
tmp/.wh.literal -0644 0:0 ""
tmp/null c0644 0:0 1:3
tmp/p p0644 0:0
`,
	},
	{
		name: "the manifest adds, changes and removes",
		layers: `
-- rootfs.toml --
remove = ["/usr/share/doc"]
[[file]]
path = "/dev/console"
type = "char"
major = 5
minor = 1
mode = "0600"
[[file]]
path = "/usr/bin/su"
mode = "4755"
gid = 12
[[file]]
path = "/sbin/init"
type = "symlink"
target = "/usr/bin/su"
-- user/apps/a/usr/bin/su --
-- user/apps/a/usr/share/doc/a --
`,
		want: `
dev d0755 0:0
dev/console c0600 0:0 5:1
sbin d0755 0:0
sbin/init l0777 0:0 -> /usr/bin/su
usr d0755 0:0
usr/bin d0755 0:0
usr/bin/su -4755 0:12 ""
usr/share d0755 0:0
`,
	},
	{
		name: "each kind of edit",
		layers: `
-- user/sysconfig/etc/append --
one
-- user/sysconfig/etc/gone --
-- user/sysconfig/etc/chmod --
-- user/sysconfig/etc/chown --
-- user/sysconfig/etc/xattr --
-- user/sysconfig/etc/linked --
-- user/apps/a/usr/lib/deep/er/file --
moved
-- user/apps/b/usr/lib/deep/other --
-- user/apps/a/srv/full/x --
`,
		edit: `echo two >>etc/append; rm etc/gone; chmod 4711 etc/chmod; chown 1:4000000000 etc/chown
setfattr -n user.a -v b etc/xattr; ln etc/linked etc/link; ln -s linked etc/symlink
mkdir -p new/a/b; echo deep >new/a/b/file; mv usr/lib/deep new/moved; mknod new/zero c 1 5
rm -r srv/full; mkdir srv/full; echo y >srv/full/y`,
		want: `
etc d0755 0:0
etc/append -0644 0:0 "one\ntwo\n"
etc/chmod -4711 0:0 ""
etc/chown -0644 1:4000000000 ""
etc/link -0644 0:0 "" = etc/linked
etc/linked -0644 0:0 "" = etc/link
etc/symlink l0777 0:0 -> linked
etc/xattr -0644 0:0 "" user.a="b"
new d0755 0:0
new/a d0755 0:0
new/a/b d0755 0:0
new/a/b/file -0644 0:0 "deep\n"
new/moved d0755 0:0
new/moved/er d0755 0:0
new/moved/er/file -0644 0:0 "moved\n"
new/moved/other -0644 0:0 ""
new/zero c0644 0:0 1:5
srv d0755 0:0
srv/full d0755 0:0
srv/full/y -0644 0:0 "y\n"
usr d0755 0:0
usr/lib d0755 0:0
`,
	},
	{
		name: "names, back and forth",
		layers: `
-- user/apps/a/usr/d/one --
1
-- user/apps/a/usr/d/two --
2
-- user/sysconfig/usr/e/three --
3
`,
		edit: `cd usr; mv d x; mv e d; mv x e; mv e/one d/one; mv d/three e/one; rm e/two; ln -s e f
mv d g; mkdir d; mv g d/g; mv d/g/one .; rmdir d/g; rmdir d; echo new >d`,
		want: `
usr d0755 0:0
usr/d -0644 0:0 "new\n"
usr/e d0755 0:0
usr/e/one -0644 0:0 "3\n"
usr/f l0777 0:0 -> e
usr/one -0644 0:0 "1\n"
`,
	},
}

// views make the entries of a project visible: as folders, or as lines right
// away.
var views = []struct {
	name string
	see  func(t *testing.T, project, mnt string) []string
}{
	{"tree", seeTree},
	{"mount", func(t *testing.T, _, mnt string) []string { return describeAsUser(t, mnt) }},
	{"tar", func(t *testing.T, project, _ string) []string {
		rootfs(t, project, "export", "--tar", "out/layer.tar")
		return describe(t, untar(t, filepath.Join(project, "out/layer.tar")), plain)
	}},
	{"image", func(t *testing.T, project, _ string) []string {
		rootfs(t, project, "export", "--img", "out/disk.img")
		return describe(t, loopMount(t, filepath.Join(project, "out/disk.img"), 1<<20), plain)
	}},
}

func TestConformance(t *testing.T) { asEachUser(t, testConformance) }

func testConformance(t *testing.T) {
	need(t, "root", "fuse", "loop", "xattr")
	for _, tc := range conformanceCases {
		t.Run(tc.name, func(t *testing.T) {
			project := layProject(t, tc.layers)
			giveAway(t, project)
			mnt, _ := mountProject(t, project)
			if tc.edit != "" {
				sh(t, mnt, mknodOfUser(project)+tc.edit)
			}
			want := strings.Split(strings.TrimSpace(tc.want), "\n")
			var first []string
			for i, v := range views {
				got := v.see(t, project, mnt)
				if i == 0 {
					first = got
					asTestUser(t, func() { same(t, want, brief(t, mnt)) })
				}
				t.Run(v.name, func(t *testing.T) { same(t, first, got) })
			}
		})
	}
}

// layProject makes a project of a txtar and runs its setup scripts.
func layProject(t *testing.T, layers string) string {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	project := filepath.Join(t.TempDir(), "project")
	for _, f := range txtar.Parse([]byte(layers)).Files {
		host := filepath.Join(project, f.Name)
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			t.Fatal(err)
		}
		if script, ok := strings.CutPrefix(string(f.Data), "#!sh\n"); ok {
			shAsRoot(t, filepath.Dir(host), script)
			continue
		}
		if err := os.WriteFile(host, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(project, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	return project
}

// seeTree describes the merged tree as describe does a folder.
func seeTree(t *testing.T, project, _ string) []string {
	t.Helper()
	return treeAt(t, project, "")
}

// treeAt describes the merged tree at a checkpoint; now for an empty one.
func treeAt(t *testing.T, project, checkpoint string) []string {
	t.Helper()
	p, err := overlay.Find(project, "")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true, Checkpoint: checkpoint})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close() //nolint:errcheck // only read
	var lines []string
	if err := export.Walk(context.Background(), tree, nil, func(e *overlay.Entry) error {
		line, err := describeOverlay(e)
		lines = append(lines, line)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// As filepath.WalkDir: by name within each directory.
	return lines
}

func describeOverlay(e *overlay.Entry) (string, error) {
	kind := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c',
		unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}[e.Mode&unix.S_IFMT]
	line := fmt.Sprintf("%s %c%04o %d:%d ", e.Path, kind, e.Mode&0o7777, e.UID, e.GID)
	mtime := fmt.Sprintf("%d.%09d", e.Mtime.Sec, e.Mtime.Nsec)
	switch kind {
	case '-':
		f, err := e.Content.Open()
		if err != nil {
			return "", err
		}
		defer f.Close() //nolint:errcheck // only read
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, e.Size)); err != nil {
			return "", err
		}
		line += fmt.Sprintf("%d %s %x names %d", e.Size, mtime, h.Sum(nil), e.Nlink)
	case 'l':
		line += fmt.Sprintf("%s -> %q", mtime, e.Target)
	case 'c', 'b':
		line += fmt.Sprintf("%d:%d %s", unix.Major(e.Rdev), unix.Minor(e.Rdev), mtime)
	default:
		line += mtime
	}
	for _, x := range e.Xattrs {
		line += fmt.Sprintf(" %s=%q", x.Name, x.Value)
	}
	return line, nil
}

// brief describes a folder as the cases do: without times, with the other
// names of a file.
func brief(t *testing.T, root string) []string {
	t.Helper()
	names := make(map[uint64][]string)
	var lines []string
	for _, full := range describeAsUser(t, root) {
		rel, rest, _ := strings.Cut(full, " ")
		if rel == "." {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, rel), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			names[st.Ino] = append(names[st.Ino], rel)
		}
		f := strings.Fields(rest)
		line := rel + " " + f[0] + " " + f[1]
		switch f[0][0] {
		case '-':
			text, err := os.ReadFile(filepath.Join(root, rel))
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %q\x00%d", text, st.Ino)
		case 'l':
			target, err := os.Readlink(filepath.Join(root, rel))
			if err != nil {
				t.Fatal(err)
			}
			line += " -> " + target
		case 'c', 'b':
			line += " " + f[2]
		}
		if i := slices.IndexFunc(f, func(s string) bool { return strings.HasPrefix(s, "user.") }); i >= 0 {
			line += " " + strings.Join(f[i:], " ")
		}
		lines = append(lines, line)
	}
	for i, line := range lines {
		before, after, ok := strings.Cut(line, "\x00")
		if !ok {
			continue
		}
		ino, rest, _ := strings.Cut(after, " ")
		var number uint64
		if _, err := fmt.Sscan(ino, &number); err != nil {
			t.Fatal(err)
		}
		rel, _, _ := strings.Cut(line, " ")
		others := slices.DeleteFunc(slices.Clone(names[number]), func(s string) bool { return s == rel })
		if len(others) > 0 {
			before += " = " + strings.Join(others, " ")
		}
		if rest != "" {
			before += " " + rest
		}
		lines[i] = before
	}
	return lines
}
