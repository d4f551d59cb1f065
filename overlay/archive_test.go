package overlay

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// everyKind has each kind of entry and each thing that an entry can say.
func everyKind(t testing.TB) []byte {
	t.Helper()
	long, odd := strings.Repeat("n", 255), "odd\xff\n name"
	header := func(h tar.Header) tarEntry { return tarEntry{h, ""} }
	sudo := aFile("usr/bin/sudo", "#!")
	sudo.Mode, sudo.Uid, sudo.Gid = 0o4755, 0, 70_000
	shadow := aFile("etc/shadow", "root:*:")
	shadow.Mode, shadow.Uid, shadow.Gid, shadow.ModTime = 0, 4_000_000_000, 42, testTime.Add(-2_000_000_000*time.Second)
	tmp := aDir("tmp")
	tmp.Mode, tmp.ModTime = 0o1777, testTime.Add(time.Nanosecond)
	return tarOf(t, aDir("."), aDir("usr"), aDir("usr/bin"), sudo, shadow, tmp,
		aFile("tmp/x", "x").with("user.note", "a\x00b", "security.capability", "\x01\x00\x00\x02",
			"trusted.t", "1", "security.selinux", "host", "user.rootfs.meta", "100777 0 0 0:0", "user.a%3Db%25", "eq"),
		header(tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}),
		header(tar.Header{Typeflag: tar.TypeBlock, Name: "dev/nvme", Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 1_048_575}),
		header(tar.Header{Typeflag: tar.TypeFifo, Name: "run/initctl", Mode: 0o600}),
		header(tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}),
		aLink("bin", "usr/bin"), aLink("deep", strings.Repeat("t", 4095)),
		aHardLink("usr/bin/sudoedit", "usr/bin/sudo"), aHardLink("bin2", "./bin"),
		aFile(long, "long"), aFile(odd, "odd"), aFile("big", strings.Repeat("0123456789abcdef", 40_000)),
	)
}

func everyKindLines() []string {
	return []string{
		". 40755 0:0 0s", "usr 40755 0:0 0s", "usr/bin 40755 0:0 0s",
		"usr/bin/sudo 104755 0:70000 0s =#!",
		"usr/bin/sudoedit 104755 0:70000 0s =#! same as usr/bin/sudo",
		"etc 40755 0:0 implicit",
		"etc/shadow 100000 4000000000:42 -555555h33m20s =root:*:",
		"tmp 41777 0:0 1ns",
		`tmp/x 100644 0:0 0s =x user.a=b%="eq" user.note="a\x00b" user.rootfs.x.security.capability="\x01\x00\x00\x02" user.rootfs.x.trusted.t="1"`,
		"dev 40755 0:0 implicit", "dev/null 20666 0:0 0s 1,3", "dev/nvme 60660 0:6 0s 259,1048575",
		"run 40755 0:0 implicit", "run/initctl 10600 0:0 0s",
		"bin 120777 0:0 0s ->usr/bin", "bin2 120777 0:0 0s ->usr/bin same as bin",
		"deep 120777 0:0 0s ->4095 bytes " + digestOf([]byte(strings.Repeat("t", 4095))),
		strings.Repeat("n", 255) + " 100644 0:0 0s =long", "odd\xff\n name 100644 0:0 0s =odd",
		"big 100644 0:0 0s =640000 bytes " + digestOf([]byte(strings.Repeat("0123456789abcdef", 40_000))),
	}
}

func TestUnpackKeepsWhatEntriesSay(t *testing.T) {
	dirs, err := unpacked(t, everyKind(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) != 1 {
		t.Fatalf("%d layers, want 1", len(dirs))
	}
	wantLines(t, recorded(t, dirs[0]), everyKindLines()...)
}

// The file system user id of a thread takes root's rights over files from it,
// which is what an unprivileged run lacks.
func TestUnpackWithoutRootIsTheSame(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("not root: the other tests show it")
		return
	}
	const nobody = 65534
	// A test's own directory is closed to others.
	dir, err := os.MkdirTemp("", "rootfs-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := save(t, filepath.Join(dir, "archive"), everyKind(t))
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		for _, call := range []uintptr{unix.SYS_SETFSGID, unix.SYS_SETFSUID} {
			if _, _, errno := unix.RawSyscall(call, nobody, 0, 0); errno != 0 {
				err = errno
				return
			}
		}
		dirs, err = unpackArchive(context.Background(), file, filepath.Join(dir, "cache"), "", slog.New(slog.DiscardHandler))
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dirs[0], &st); err != nil || st.Uid != nobody {
		t.Fatalf("the layer belongs to %d (%v): the test proves nothing", st.Uid, err)
	}
	wantLines(t, recorded(t, dirs[0]), everyKindLines()...)
}

func TestUnpackStaysBeneathTheRootAndTheLastEntryWins(t *testing.T) {
	for name, c := range map[string]struct {
		entries []tarEntry
		want    []string // without ". 40755 0:0 implicit"
	}{
		"dots and absolute": {
			[]tarEntry{aFile("../../etc/x", "1"), aFile("/abs", "2"), aFile("a/../../b", "3"), aFile("./c//d", "4")},
			[]string{"etc 40755 0:0 implicit", "etc/x 100644 0:0 0s =1", "abs 100644 0:0 0s =2", "b 100644 0:0 0s =3", "c 40755 0:0 implicit", "c/d 100644 0:0 0s =4"},
		},
		"through a link": {
			[]tarEntry{aLink("out", "../../../../tmp"), aFile("out/x", "1"), aLink("bin", "usr/bin"), aFile("bin/sh", "2"), aHardLink("bin/ash", "bin/sh")},
			[]string{
				"out 120777 0:0 0s ->../../../../tmp", "tmp 40755 0:0 implicit", "tmp/x 100644 0:0 0s =1",
				"bin 120777 0:0 0s ->usr/bin", "usr 40755 0:0 implicit", "usr/bin 40755 0:0 implicit",
				"usr/bin/sh 100644 0:0 0s =2", "usr/bin/ash 100644 0:0 0s =2",
			},
		},
		"file over file":   {[]tarEntry{aFile("a", "1").with("user.x", "y"), aFile("a", "2")}, []string{"a 100644 0:0 0s =2"}},
		"file over folder": {[]tarEntry{aFile("a/b/c", "1"), aFile("a", "2"), aFile("z", "3")}, []string{"a 100644 0:0 0s =2", "z 100644 0:0 0s =3"}},
		"folder over file": {[]tarEntry{aFile("a", "1"), aDir("a"), aFile("a/b", "2")}, []string{"a 40755 0:0 0s", "a/b 100644 0:0 0s =2"}},
		"folder over link": {[]tarEntry{aLink("a", "z"), aDir("a"), aFile("a/b", "2")}, []string{"a 40755 0:0 0s", "a/b 100644 0:0 0s =2"}},
		"folder after its content": {
			[]tarEntry{aFile("a/b", "1"), {tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o2700, Uid: 7}, ""}},
			[]string{"a 42700 7:0 0s", "a/b 100644 0:0 0s =1"},
		},
		"folder twice": {
			[]tarEntry{{tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o2700, Uid: 7}, ""}, aDir("a")},
			[]string{"a 40755 0:0 0s"},
		},
		"link over itself":      {[]tarEntry{aFile("a", "1"), aHardLink("a", "a")}, []string{"a 100644 0:0 0s =1"}},
		"hard link over file":   {[]tarEntry{aFile("a", "1"), aFile("b", "2"), aHardLink("b", "a"), aFile("a", "3")}, []string{"a 100644 0:0 0s =3", "b 100644 0:0 0s =1"}},
		"whiteouts are images'": {[]tarEntry{aFile(".wh.a", "1"), aFile(".wh..wh..opq", "2")}, []string{".wh.a 100644 0:0 0s =1", ".wh..wh..opq 100644 0:0 0s =2"}},
		"nothing":               {},
	} {
		t.Run(name, func(t *testing.T) {
			dirs, err := unpacked(t, tarOf(t, c.entries...))
			if err != nil {
				t.Fatal(err)
			}
			got := recorded(t, dirs[0])
			for i, line := range got {
				// Second names are told apart where it matters.
				got[i] = strings.TrimSuffix(line, " same as usr/bin/ash")
			}
			wantLines(t, got, append(c.want, ". 40755 0:0 implicit")...)
		})
	}
}

func TestUnpackRefuses(t *testing.T) {
	bad := func(h tar.Header) tarEntry { return tarEntry{h, ""} }
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"empty file":            {nil, "empty file"},
		"no tar":                {[]byte(strings.Repeat("not a tar ", 200)), "not a tar"},
		"link to itself":        {tarOf(t, aHardLink("a", "./a")), `entry "a": hard link to "./a", which is not in the archive`},
		"link to nothing":       {tarOf(t, aHardLink("a", "gone")), `entry "a": hard link to "gone", which is not in the archive`},
		"link to a folder":      {tarOf(t, aDir("d"), aHardLink("a", "d")), "which is a directory"},
		"file as folder":        {tarOf(t, aFile("a", ""), aFile("a/b", "")), `entry "a/b": "a" is not a directory`},
		"links in a circle":     {tarOf(t, aLink("a", "b"), aLink("b", "a"), aFile("a/x", "")), `entry "a/x"`},
		"name too long":         {tarOf(t, aFile(strings.Repeat("n", 256), "")), "file name too long"},
		"file as root":          {tarOf(t, aFile(".", "")), "is the root"},
		"target too long":       {tarOf(t, aLink("a", strings.Repeat("t", 4096))), "symlink target of 4096 bytes"},
		"owner -1":              {tarOf(t, bad(tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 1<<32 - 1})), "owner 4294967295:0 is out of range"},
		"device too large":      {tarOf(t, bad(tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 4096})), "device 4096:0 is out of range"},
		"attribute of 2 bases":  {tarOf(t, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"LIBARCHIVE.xattr.user.a": "!"}}, ""}), "LIBARCHIVE.xattr.user.a"},
		"unknown kind of entry": {tarOf(t, bad(tar.Header{Typeflag: 'Q', Name: "a"})), `type 'Q' is not supported`},
	} {
		t.Run(name, func(t *testing.T) {
			dirs, err := unpacked(t, c.content)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/archive: ") {
				t.Errorf("got %v, %v; want the archive's path and %q", dirs, err, c.want)
			}
		})
	}
}

func compressions(t testing.TB) map[string]func([]byte) []byte {
	t.Helper()
	through := func(open func(io.Writer) (io.WriteCloser, error)) func([]byte) []byte {
		return func(plain []byte) []byte {
			var b bytes.Buffer
			w, err := open(&b)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Write(plain)
			if err = errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}
	}
	return map[string]func([]byte) []byte{
		"plain": func(b []byte) []byte { return b },
		"gzip":  through(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"xz":    through(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"zstd":  through(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
	}
}

func TestUnpackTellsCompressionAndTruncation(t *testing.T) {
	for name, compress := range compressions(t) {
		t.Run(name, func(t *testing.T) {
			whole := compress(everyKind(t))
			dirs, err := unpacked(t, whole)
			if err != nil {
				t.Fatal(err)
			}
			wantLines(t, recorded(t, dirs[0]), everyKindLines()...)

			dir := t.TempDir()
			cache := filepath.Join(dir, "cache")
			step := max(len(whole)/23, 512) // also on the edge of an entry
			for n := 1; n < len(whole)-1024; n += step {
				file := save(t, filepath.Join(dir, "short"), whole[:n])
				_, err := unpackArchive(context.Background(), file, cache, "", slog.New(slog.DiscardHandler))
				if err == nil || !strings.Contains(err.Error(), file) {
					t.Errorf("%d of %d bytes: %v, want an error with the path", n, len(whole), err)
				}
			}
			left, err := os.ReadDir(filepath.Join(cache, "layers"))
			if err != nil || len(left) > 0 {
				t.Errorf("left in the cache: %v (%v)", left, err)
			}
		})
	}
}

// The kernel knows user.* of files and directories only, and so must a layer: a
// name that is listed can be read.
func TestUnpackLeavesOutWhatNoSymlinkHas(t *testing.T) {
	pipe := tarEntry{tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o644}, ""}
	p := project(t, `rootfs.toml [base]|source = "base.tar"`)
	save(t, filepath.Join(p.Root, "base.tar"), tarOf(t,
		aLink("l", "x").with("user.a", "1", "trusted.b", "2"), pipe.with("user.a", "1", "trusted.b", "2")))
	tree := open(t, p)
	for _, name := range []string{"l", "p"} {
		n, err := tree.Lookup(tree.Root(), name, new(Entry))
		must(t, err)
		if names, err := tree.ListXattr(n); err != nil || !slices.Equal(names, []string{"trusted.b"}) {
			t.Errorf("%s: %q, %v", name, names, err)
		}
	}
}

// Global headers add up, the later of a key wins, and an entry's own header wins
// over them.
func TestUnpackHeedsGlobalHeaders(t *testing.T) {
	global := func(records ...string) tarEntry {
		e := tarEntry{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{}}, ""}
		for pair := range slices.Chunk(records, 2) {
			e.PAXRecords[pair[0]] = pair[1]
		}
		return e
	}
	whole := aFile("a", "1")
	whole.ModTime = testTime.Truncate(time.Second) // in no record
	own := aFile("c", "1").with("user.a", "own")
	own.Uid = 1 << 24
	acl, err := parseACL("user::rw-,user:7:r--,group::r--,mask::r--,other::r--")
	must(t, err)
	dirs, err := unpacked(t, tarOf(t,
		global("uid", "5", "gid", "6", "mtime", "-0.5", "SCHILY.xattr.user.a", "1", "SCHILY.acl.access", "user::rw-,user:7:r--,group::r--,mask::r--,other::r--"), whole,
		global("uid", "8", "LIBARCHIVE.xattr.user.b", "Mg", "comment", "none"), aDir("b"), own))
	must(t, err)
	list := fmt.Sprintf(" user.rootfs.x.system.posix_acl_access=%q", acl)
	wantLines(t, recorded(t, dirs[0]), ". 40755 0:0 implicit",
		fmt.Sprintf("a 100644 5:6 %v =1 user.a=%q", time.Unix(0, -5e8).Sub(testTime), "1")+list,
		`b 40755 8:6 0s user.a="1" user.b="2"`+list,
		`c 100644 16777216:6 0s =1 user.a="own" user.b="2"`+list)
	_, err = unpacked(t, tarOf(t, global("uid", "root"), whole))
	if err == nil || !strings.Contains(err.Error(), "malformed") {
		t.Errorf("an owner that is no number: %v", err)
	}
}

// A file whose name ends in a slash is a directory, as before POSIX.
func TestUnpackTakesASlashForADirectory(t *testing.T) {
	one := withChecksum(tarOf(t, aFile("dX", ""))[1024:1536], func(h []byte) { h[1] = '/' })
	dirs, err := unpacked(t, slices.Concat(one, tarOf(t, aFile("d/f", "1"))))
	must(t, err)
	wantLines(t, recorded(t, dirs[0]), ". 40755 0:0 implicit", "d 40644 0:0 -123.456789ms", "d/f 100644 0:0 0s =1")
}

// pzstd puts a skippable frame before each of its frames.
func TestUnpackWhatPzstdWrites(t *testing.T) {
	zst := compressions(t)["zstd"](everyKind(t))
	dirs, err := unpacked(t, slices.Concat([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00size"), zst))
	must(t, err)
	wantLines(t, recorded(t, dirs[0]), everyKindLines()...)
}

// A name that no host can hold is refused before its directories are made.
func TestUnpackRefusesEndlessNames(t *testing.T) {
	name := strings.Repeat("a/", 400_000) + "f"
	for what, entry := range map[string]tarEntry{"name": aFile(name, ""), "link": aHardLink("l", name)} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			dir := t.TempDir()
			file := save(t, filepath.Join(dir, "archive"), tarOf(t, entry))
			_, err := unpackArchive(ctx, file, filepath.Join(dir, "cache"), "", slog.New(slog.DiscardHandler))
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, unix.ENAMETOOLONG) || len(err.Error()) > 20_000 {
				t.Errorf("%s: %.300v", what, err)
			}
		case <-ctx.Done():
			t.Fatalf("%s: it takes forever", what)
		}
	}
}

func TestUnpackedOnce(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	file := save(t, filepath.Join(dir, "archive"), tarOf(t, aFile("a", "1")))
	unpack := func(file string) string {
		t.Helper()
		dirs, err := unpackArchive(context.Background(), file, cache, "", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return dirs[0]
	}
	first := unpack(file)
	var before, after unix.Stat_t
	if err := unix.Stat(first, &before); err != nil {
		t.Fatal(err)
	}
	again := unpack(file)
	copied := unpack(save(t, filepath.Join(dir, "copy"), tarOf(t, aFile("a", "1"))))
	if err := unix.Stat(first, &after); err != nil || before.Ino != after.Ino || again != first || copied != first {
		t.Errorf("the same content was unpacked again: %s, %s, %s (%v)", first, again, copied, err)
	}

	// The same size and time, as "touch -r" leaves them.
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	save(t, file, tarOf(t, aFile("a", "2")))
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	changed := unpack(file)
	wantLines(t, recorded(t, changed), ". 40755 0:0 implicit", "a 100644 0:0 0s =2")

	if err := os.RemoveAll(filepath.Join(cache, "layers")); err != nil {
		t.Fatal(err)
	}
	if got := unpack(file); got != changed {
		t.Errorf("after the cache was cleared: %s, want %s", got, changed)
	}
	save(t, filepath.Join(filepath.Dir(changed), "format"), []byte("rootfs layer 2\n"))
	if _, err := unpackArchive(context.Background(), file, cache, "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("unknown format: %v", err)
	}
}

// Who cleans caches by hand, or by the age of files, may leave a part of a layer.
func TestUnpackAgainWhatIsNotWhole(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	file := save(t, filepath.Join(dir, "archive"), tarOf(t, aFile("a", "1")))
	unpack := func() string {
		t.Helper()
		dirs, err := unpackArchive(context.Background(), file, cache, "", slog.New(slog.DiscardHandler))
		must(t, err)
		return dirs[0]
	}
	layer := filepath.Dir(unpack())
	for _, gone := range []string{"", "format", archiveImplicit, archiveRootDir} {
		must(t, os.RemoveAll(filepath.Join(layer, gone)))
		wantLines(t, recorded(t, unpack()), ". 40755 0:0 implicit", "a 100644 0:0 0s =1")
		if left, err := os.ReadDir(filepath.Join(cache, "layers")); err != nil || len(left) != 1 {
			t.Errorf("without %q: in the cache: %v (%v), want one layer", gone, left, err)
		}
	}
}

func TestUnpackByManyAtOnceAndAfterACrash(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	file := save(t, filepath.Join(dir, "archive"), everyKind(t))
	plant(t, cache, "layers/.tmp-1/0/root/half")
	results := make(chan error)
	for range 8 {
		go func() {
			dirs, err := unpackArchive(context.Background(), file, cache, "", slog.New(slog.DiscardHandler))
			if err == nil {
				_, err = os.Stat(filepath.Join(dirs[0], "usr/bin/sudo"))
			}
			results <- err
		}()
	}
	for range 8 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(cache, "layers"))
	if err != nil || len(left) != 1 {
		t.Errorf("in the cache: %v (%v), want one layer", left, err)
	}
}

func TestUnpackStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	file := save(t, filepath.Join(dir, "archive"), everyKind(t))
	_, err := unpackArchive(ctx, file, filepath.Join(dir, "cache"), "", slog.New(slog.DiscardHandler))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// Who opens a project need not wait for its archives.
func TestOpeningStopsWhenCancelled(t *testing.T) {
	p := project(t, `rootfs.toml [base]|source = "base.tar"`, "user/apps/ ")
	for _, file := range []string{"base.tar", "user/apps/a.tar"} {
		save(t, filepath.Join(p.Root, file), everyKind(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if tree, err := Open(p, Options{ReadOnly: true, Context: ctx}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, %v, want context.Canceled", file, tree, err)
		}
		must(t, open(t, p).Close())
	}
}
