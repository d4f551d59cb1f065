package overlay

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// What other programs write is read as they mean it.

func TestUnpackWhatGNUTarWrites(t *testing.T) {
	needTool(t, "tar")
	src := t.TempDir()
	must(t, os.Chmod(src, 0o755)) // an open tree has taken the umask away
	plant(t, src, "d/", "link -> d/sparse")
	sparse := filepath.Join(src, "d/sparse")
	must(t, os.WriteFile(sparse, nil, 0o600))
	must(t, os.Truncate(sparse, 64<<20))
	f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
	must(t, err)
	for off := int64(1 << 20); off < 64<<20; off += 8 << 20 {
		_, err := f.WriteAt([]byte("data"), off)
		must(t, err)
	}
	must(t, f.Close())
	must(t, os.Link(sparse, filepath.Join(src, "other")))
	must(t, unix.Mkfifo(filepath.Join(src, "fifo"), 0o640))
	must(t, xattr.Set(filepath.Join(src, "d"), "user.a=%b", []byte("x\x00y")))
	for _, name := range []string{"d/sparse", "fifo", "link", "d", "."} {
		ts := unix.NsecToTimespec(testTime.UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(src, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	for format, ns := range map[string]string{"gnu": "-123.456789ms", "posix": "0s"} {
		t.Run(format, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "archive")
			args := []string{"-C", src, "--format=" + format, "--sparse", "--sort=name", "--owner=5", "--group=6"}
			want := []string{
				". 40755 5:6 " + ns, "d 40755 5:6 " + ns, "fifo 10640 5:6 " + ns, "link 120777 5:6 " + ns + " ->d/sparse",
				"d/sparse 100600 5:6 " + ns + describeContent(t, sparse, meta{mode: unix.S_IFREG}),
				"other 100600 5:6 " + ns + describeContent(t, sparse, meta{mode: unix.S_IFREG}) + " same as d/sparse",
			}
			if format == "posix" {
				args = append(args, "--xattrs")
				want[1] += ` user.a=%b="x\x00y"`
			}
			run(t, "tar", append(args, "-cf", file, ".")...)
			dirs, err := unpackPath(t, file, "")
			must(t, err)
			wantLines(t, recorded(t, dirs[0]), want...)
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(dirs[0], "d/sparse"), &st))
			if st.Blocks*512 > 1<<20 {
				t.Errorf("the holes are gone: %d bytes on disk", st.Blocks*512)
			}
		})
	}
}

func TestUnpackWhatSkopeoWrites(t *testing.T) {
	needTool(t, "skopeo")
	layout := ociDir(t, ociFiles(t, threeLayers(t)))
	for name, to := range map[string]string{
		"docker-archive": "docker-archive:FILE:demo:1", "oci-archive": "oci-archive:FILE:demo:1", "oci": "oci:FILE:demo",
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "image")
			run(t, "skopeo", "--insecure-policy", "copy", "-q", "oci:"+layout+":demo:1", strings.Replace(to, "FILE", file, 1))
			dirs, err := unpackPath(t, file, "x86_64")
			wantThreeLayers(t, dirs, err)
		})
	}
}

func TestUnpackWhatUmociWrites(t *testing.T) {
	needTool(t, "umoci")
	layout := filepath.Join(t.TempDir(), "layout")
	run(t, "umoci", "init", "--layout", layout)
	run(t, "umoci", "new", "--image", layout+":demo")
	for _, layer := range threeLayers(t).layers {
		run(t, "umoci", "raw", "add-layer", "--image", layout+":demo", save(t, filepath.Join(t.TempDir(), "layer.tar"), layer))
	}
	run(t, "umoci", "gc", "--layout", layout)
	dirs, err := unpackPath(t, layout, "x86_64")
	wantThreeLayers(t, dirs, err)
}

func TestImageAsBase(t *testing.T) {
	p := project(t, `rootfs.toml [base]|source = "image.tar"`, "user/sysconfig/etc/b mine")
	save(t, filepath.Join(p.Root, "image.tar"), dockerArchive(t, threeLayers(t)))
	expect(t, open(t, p),
		"bin 120777 0:0 ->usr/bin", "etc 40755 0:0", `etc/b 100644 0:0 "mine"`, "new 40755 0:0",
		"usr 40755 0:0", "usr/bin 40755 0:0", `usr/bin/cp 100644 0:0 "3"`, `usr/bin/ls 100644 0:0 "2"`, `usr/bin/sh 100644 0:0 "1"`,
		"var 40755 0:0", `var/y 100644 0:0 "2"`)
}

func TestRootfsTarAsBaseKeepsWhatItSays(t *testing.T) {
	p := project(t, `rootfs.toml [base]|source = "base.tar.gz"`, "user/apps/a/tmp/y y", "user/apps/a/dev/x x")
	save(t, filepath.Join(p.Root, "base.tar.gz"), compressions(t)["gzip"](tarOf(t,
		func() tarEntry { e := aDir("tmp"); e.Mode = 0o1777; return e }(),
		tarEntry{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}, aFile("tmp/x", "x"))))
	// The package's own directory counts, like any later layer's.
	expect(t, open(t, p),
		"dev 40755 0:0", "dev/null 20666 0:0 1:3", `dev/x 100644 0:0 "x"`,
		"tmp 40755 0:0", `tmp/x 100644 0:0 "x"`, `tmp/y 100644 0:0 "y"`)
}

func TestImplicitDirectoriesOfAnArchiveTakeWhatIsBelow(t *testing.T) {
	tmp := aDir("tmp")
	tmp.Mode, tmp.Uid = 0o1777, 3
	p := project(t, `rootfs.toml [base]|source = "base.tar"`, "user/apps/ ")
	save(t, filepath.Join(p.Root, "base.tar"), tarOf(t, aDir("."), tmp))
	save(t, filepath.Join(p.Root, "user/apps/a.tar"), tarOf(t, aFile("tmp/x", "x")))
	expect(t, open(t, p), "tmp 41777 3:0", `tmp/x 100644 0:0 "x"`)
}
