package export

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// openImage opens an image until the end of the test.
func openImage(t testing.TB, path string) *Image {
	t.Helper()
	im, err := OpenImage(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = im.Close() })
	return im
}

// imageLines describes what an image holds as linesOf does a directory.
func imageLines(t testing.TB, im *Image) []string {
	t.Helper()
	dir := t.TempDir()
	var all []*line
	inos := map[*line]uint64{}
	names := map[uint64][]string{}
	err := im.Walk(t.Context(), func(e *overlay.Entry) error {
		l := &line{path: e.Path, mode: e.Mode, uid: e.UID, gid: e.GID, mtime: e.Mtime, rdev: e.Rdev, target: e.Target}
		if e.IsRegular() {
			l.content(t, copyOut(t, im, e, dir))
		}
		for _, x := range e.Xattrs {
			l.xattrs = append(l.xattrs, fmt.Sprintf("%q=%q", x.Name, x.Value))
		}
		if !e.IsDir() {
			names[e.Ino] = append(names[e.Ino], e.Path)
			inos[l] = e.Ino
		}
		all = append(all, l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range all {
		l.names = names[inos[l]]
		lines = append(lines, l.String())
	}
	sort.Strings(lines)
	return lines
}

// copyOut copies a file's parts into a sparse file.
func copyOut(t testing.TB, im *Image, e *overlay.Entry, dir string) string {
	t.Helper()
	c, err := im.Content(e)
	if err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(dir, fmt.Sprint(e.Ino))
	f, err := os.Create(host)
	if err == nil {
		err = f.Truncate(e.Size)
	}
	for _, r := range c.Data() {
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(f, r.Off), io.NewSectionReader(c, r.Off, r.Len))
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return host
}

// hostTree makes files of all kinds that a tar can hold.
func hostTree(t *testing.T) string {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	long := strings.Repeat("d", 120) + "/" + strings.Repeat("f", 200)
	sparse := bytes.Repeat([]byte("s"), 8192)
	f, err := os.Create(at("sparse"))
	errs := []error{err}
	for i := range int64(70) {
		_, err := f.WriteAt(sparse, i*100_000/4096*4096)
		errs = append(errs, err)
	}
	errs = append(errs, f.Truncate(50_000_000), f.Close(),
		os.MkdirAll(at("dir/sub"), 0o750), os.MkdirAll(at(filepath.Dir(long)), 0o755),
		os.WriteFile(at("empty"), nil, 0o600), os.WriteFile(at("file"), []byte("content"), 0o644),
		os.WriteFile(at(long), bytes.Repeat([]byte("long"), 1000), 0o644),
		os.Link(at("file"), at("dir/hard")), os.Link(at(long), at(long+"2")),
		os.Symlink("file", at("link")), os.Symlink(strings.Repeat("t", 200), at("longlink")),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("blk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70_000))),
		unix.Mknod(at("fifo"), unix.S_IFIFO|0o640, 0),
		os.Chown(at("dir/sub"), 5_000_000, 3_000_000_000), os.Chmod(at("file"), 0o4755|os.ModeSetuid),
	)
	when := time.Unix(1_600_000_000, 0)
	for _, name := range []string{"dir/sub", "sparse", "file", "empty", "dir", long, "null", "blk", "fifo", filepath.Dir(long), "."} {
		errs = append(errs, os.Chtimes(at(name), when, when))
	}
	for _, name := range []string{"link", "longlink"} {
		errs = append(errs, unix.Lutimes(at(name), []unix.Timeval{{Sec: when.Unix()}, {Sec: when.Unix()}}))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return root
}

// Tars of GNU tar are read as what they were made of, in each of its formats.
func TestReadGNUTar(t *testing.T) {
	needTool(t, "tar")
	root := hostTree(t)
	want := linesOf(t, root)
	for _, options := range []string{
		"--format=gnu", "--format=oldgnu", "--format=gnu --sparse", "--format=pax",
		"--format=pax --sparse --sparse-version=0.0", "--format=pax --sparse --sparse-version=0.1",
		"--format=pax --sparse --sparse-version=1.0", "--format=pax --sparse --xattrs --xattrs-include=*",
		"--gzip", "--zstd --format=pax", "--xz --sparse --format=pax",
	} {
		t.Run(options, func(t *testing.T) {
			if strings.Contains(options, "--zstd") {
				needTool(t, "zstd")
			}
			file := filepath.Join(t.TempDir(), "tar")
			run(t, "tar", slices.Concat([]string{"-C", root, "--numeric-owner"}, strings.Fields(options), []string{"-cf", file, "."})...)
			im := openImage(t, file)
			got := imageLines(t, im)
			if !strings.Contains(options, "--sparse") {
				got, want := withoutHoles(got), withoutHoles(want)
				equalLines(t, "the tar", want, got)
			} else {
				equalLines(t, "the tar", want, got)
			}
			if list := problemsOf(t, im); len(list) > 0 {
				t.Errorf("check reports %q", list)
			}
		})
	}
}

// pzstd puts a skippable frame before each of its frames.
func TestReadWhatPzstdWrites(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("\x50\x2a\x4d\x18\x04\x00\x00\x00size")
	err := compressTo(&b, Zstd, func(w io.Writer) error { _, err := w.Write(makeTar(t, file("a", "1"))); return err })
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, openImage(t, writeFile(t, b.Bytes()))); got != "./ a=1" {
		t.Errorf("got %s", got)
	}
}

// withoutHoles takes out of lines where data is.
func withoutHoles(lines []string) []string {
	var all []string
	for _, l := range lines {
		before, rest, ok := strings.Cut(l, "data=[")
		if _, after, closed := strings.Cut(rest, "]"); ok && closed {
			l = before + after
		}
		all = append(all, l)
	}
	return all
}

func problemsOf(t testing.TB, im *Image) []string {
	t.Helper()
	var list []string
	if err := im.Check(context.Background(), func(p string) error {
		list = append(list, p)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// What a TarWriter writes is read back as it was given.
func TestReadOwnTar(t *testing.T) {
	tr := newTree(t)
	tr.add(overlay.Entry{Path: "d", Mode: unix.S_IFDIR | 0o1777, UID: 3_000_000, Mtime: overlay.Time{Sec: -1, Nsec: 5}})
	tr.file(overlay.Entry{Path: "d/f", Xattrs: []overlay.Xattr{{Name: "user.a=%3D", Value: []byte("\x00\n")}}}, []byte("data"))
	tr.file(overlay.Entry{Path: "d/s\xff"}, []byte("a"), nil, bytes.Repeat([]byte("b"), 9000), nil)
	tr.file(overlay.Entry{Path: "hard1", Ino: 77, Nlink: 2}, []byte("hard"))
	h := tr.entries[len(tr.entries)-1]
	h.Path = "hard2"
	tr.add(h)
	tr.add(overlay.Entry{Path: "l", Mode: unix.S_IFLNK | 0o777, Target: strings.Repeat("t", 300)})
	tr.add(overlay.Entry{Path: "n", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(4, 64)})
	file := filepath.Join(t.TempDir(), "tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	w := NewTarWriter(t.Context(), f, TarOptions{})
	for i := range tr.entries {
		if err := w.Add(&tr.entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	equalLines(t, "the tar", tr.lines(), imageLines(t, openImage(t, file)))
}

// member is one of a tar in a test.
type member struct {
	h    tar.Header
	data string
}

func file(name, data string) member {
	return member{tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&m.h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// contents lists the files of an image with what is in them.
func contents(t testing.TB, im *Image) string {
	t.Helper()
	var s []string
	err := im.Walk(t.Context(), func(e *overlay.Entry) error {
		switch {
		case e.IsRegular():
			b, err := im.readAll(e.Ino, 1<<20)
			s = append(s, fmt.Sprintf("%s=%s", e.Path, b))
			return err
		case e.IsDir():
			s = append(s, e.Path+"/")
		default:
			s = append(s, e.Path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(s, " ")
}

// The later member wins, as when a tar is unpacked.
func TestTarRules(t *testing.T) {
	link := func(name, to string) member {
		return member{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
	}
	symlink := func(name, to string) member {
		return member{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
	}
	dir := func(name string) member {
		return member{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o700}, ""}
	}
	for _, c := range []struct {
		name    string
		members []member
		want    string
	}{
		{"implied directories", []member{file("a/b/c", "x")}, "./ a/ a/b/ a/b/c=x"},
		{"the last content", []member{file("./a", "1"), file("/a", "2")}, "./ a=2"},
		{"a directory keeps what is in it", []member{file("d/f", "1"), dir("d/")}, "./ d/ d/f=1"},
		{"a file over a directory", []member{file("d/f", "1"), file("d", "2")}, "./ d=2"},
		{"a directory over a file", []member{file("d", "1"), dir("d"), file("d/f", "2")}, "./ d/ d/f=2"},
		{"a link keeps its file", []member{file("a", "1"), link("b", "a"), file("a", "2")}, "./ a=2 b=1"},
		{"names of whiteouts", []member{file(".wh.a", "1"), file("a", "2")}, "./ .wh.a=1 a=2"},
		{"below a link", []member{symlink("bin", "usr/bin"), file("bin/a", "1"), link("bin/b", "bin/a")}, "./ bin usr/ usr/bin/ usr/bin/a=1 usr/bin/b=1"},
		{"below a link that leads out", []member{symlink("a/l", "../../../c"), file("a/l/f", "1")}, "./ a/ a/l c/ c/f=1"},
		{"nothing", nil, "./"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := contents(t, openImage(t, writeFile(t, makeTar(t, c.members...)))); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// The layers of a docker archive lie over each other.
func TestReadDockerLayers(t *testing.T) {
	one := makeTar(t, file("etc/a", "1"), file("etc/b", "1"), file("keep/x", "1"), file("gone/x", "1"), file("f", "1"))
	two := makeTar(t, file("etc/.wh.b", ""), file("etc/c", "2"), file("gone/.wh..wh..opq", ""), file("gone/y", "2"), file(".wh.f", ""))
	for _, packed := range []bool{false, true} {
		layers := [2][]byte{one, two}
		if packed {
			var b bytes.Buffer
			if err := compressTo(&b, Zstd, func(w io.Writer) error { _, err := w.Write(two); return err }); err != nil {
				t.Fatal(err)
			}
			layers[1] = b.Bytes()
		}
		archive := makeTar(t, file("manifest.json", `[{"Config":"c","Layers":["l1/layer.tar","l2"]}]`),
			file("l1/layer.tar", string(layers[0])), file("l2", string(layers[1])))
		im := openImage(t, writeFile(t, archive))
		want := "./ etc/ etc/a=1 etc/c=2 gone/ gone/y=2 keep/ keep/x=1"
		if got := contents(t, im); got != want {
			t.Errorf("packed=%t: got %s, want %s", packed, got, want)
		}
		if im.Format() != "docker archive" || im.Unpacked != packed {
			t.Errorf("format %s, unpacked %t", im.Format(), im.Unpacked)
		}
	}
}

// What a layer puts below a link of a lower one goes to where that leads, and
// what it takes away is gone whatever the order.
func TestReadDockerLayersInAnyOrder(t *testing.T) {
	link := member{tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"}, ""}
	dir := func(name string) member {
		return member{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o700}, ""}
	}
	for _, c := range []struct {
		name         string
		lower, upper []member
		want         string
	}{
		{"a link below", []member{link, file("usr/bin/sh", "1")}, []member{file("bin/ls", "2"), file("bin/.wh.sh", "")}, "./ bin usr/ usr/bin/ usr/bin/ls=2"},
		{"opaque at the end", []member{file("d/e/a", "1"), file("d/f/a", "1"), file("d/g", "1")}, []member{dir("d/e"), file("d/f/b", "2"), file("d/.wh..wh..opq", "")}, "./ d/ d/e/ d/f/ d/f/b=2"},
		{"whiteout at the end", []member{file("d/e/a", "1"), file("g/a", "1"), file("g/b", "1")}, []member{file("d/e/b", "2"), dir("g"), file("g/b", "2"), file(".wh.d", ""), file(".wh.g", "")}, "./ d/ d/e/ d/e/b=2 g/ g/b=2"},
		{"housekeeping of aufs", nil, []member{file(".wh..wh.plnk/1", ""), file("a", "2")}, "./ a=2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := openImage(t, writeFile(t, makeTar(t, file("manifest.json", `[{"Layers":["1","2"]}]`),
				file("1", string(makeTar(t, c.lower...))), file("2", string(makeTar(t, c.upper...))))))
			if got := contents(t, im); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Access control lists that GNU tar and libarchive write as text are the
// attributes that they are for, unless these are there themselves.
func TestReadTextOfACLs(t *testing.T) {
	const text = "user::rw-,user:7:r--,group::r--,mask::r--,other::r--"
	const value = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x07\x00\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	with := func(name string, records map[string]string) member {
		m := file(name, "")
		m.h.PAXRecords = records
		return m
	}
	im := openImage(t, writeFile(t, makeTar(t,
		with("a", map[string]string{"SCHILY.acl.access": text, "SCHILY.acl.default": ""}),
		with("b", map[string]string{"SCHILY.acl.access": "user:joe:r--"}),
		with("c", map[string]string{"SCHILY.acl.access": text, "SCHILY.xattr.system.posix_acl_access": "own"}))))
	for name, want := range map[string]string{"a": value, "b": "", "c": "own"} {
		e, err := im.Lookup(name, true)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, x := range e.Xattrs {
			got += string(x.Value)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, e.Xattrs, want)
		}
	}
	if list := problemsOf(t, openImage(t, writeFile(t, makeTar(t, with("a", map[string]string{"SCHILY.acl.access": "x"}))))); len(list) != 1 {
		t.Errorf("check of a list that is none: %q", list)
	}
}

// A symlink has all permissions, whatever a tar says.
func TestReadSymlinkMode(t *testing.T) {
	im := openImage(t, writeFile(t, makeTar(t, member{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "x", Mode: 0o644}, ""})))
	if e, err := im.Lookup("l", false); err != nil || e.Mode != unix.S_IFLNK|0o777 {
		t.Errorf("got %+v, %v", e, err)
	}
}

// global is a global header of keys and values.
func global(records ...string) member {
	h := tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: make(map[string]string)}
	for i := 0; i < len(records); i += 2 {
		h.PAXRecords[records[i]] = records[i+1]
	}
	return member{h, ""}
}

// Global headers add up, the later of a key wins, and a member's own header
// wins over them. What they say is kept once.
func TestReadGlobalHeaders(t *testing.T) {
	own := file("c", "")
	own.h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "own", "SCHILY.xattr.user.c": "own"}
	own.h.Uid = 1 << 24 // in a record
	im := openImage(t, writeFile(t, makeTar(t,
		global("uid", "5", "gid", "6", "SCHILY.xattr.user.a", "1", "GNU.sparse.major", "1"), file("a", ""),
		global("uid", "8", "SCHILY.xattr.user.b", "2", "comment", "none"), file("b", ""), own)))
	var got []string
	values := make(map[string][]*byte)
	err := im.Walk(t.Context(), func(e *overlay.Entry) error {
		s := fmt.Sprintf("%s %d:%d", e.Path, e.UID, e.GID)
		for _, x := range e.Xattrs {
			s += fmt.Sprintf(" %s=%s", x.Name, x.Value)
			values[x.Name] = append(values[x.Name], &x.Value[0])
		}
		got = append(got, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "the tar", []string{
		". 0:0", "a 5:6 user.a=1", "b 8:6 user.a=1 user.b=2", "c 16777216:6 user.a=own user.b=2 user.c=own",
	}, got)
	if v := values["user.a"]; len(v) != 3 || v[0] != v[1] {
		t.Errorf("values are kept several times: %v", v)
	}
}

// A record without a value takes away what a global header says, and leaves the
// header's own field (POSIX pax, "pax Extended Header"). An attribute can be empty.
func TestReadEmptyRecords(t *testing.T) {
	var b []byte
	for _, h := range []tarHeader{
		{typ: typePAXGlobal, name: "global", size: int64(len("9 uid=77\n9 gid=78\n"))},
		{typ: typeFile, name: "a", uid: 1, gid: 2, mtime: overlay.Time{Sec: 3}, extra: []paxRecord{
			{"uid", ""}, {"mtime", ""}, {"path", ""}, {"size", ""}, {"linkpath", ""}, {"SCHILY.xattr.user.empty", ""},
		}},
		{typ: typePAXGlobal, name: "global", size: int64(len("7 gid=\n"))},
		{typ: typeFile, name: "b", uid: 1, gid: 2},
	} {
		var err error
		if b, err = h.appendTo(b); err != nil {
			t.Fatal(err)
		}
		switch h.size {
		case 18:
			b = append(b, "9 uid=77\n9 gid=78\n"...)
		case 7:
			b = append(b, "7 gid=\n"...)
		}
		b = append(b, make([]byte, padding(h.size))...)
	}
	im := openImage(t, writeFile(t, append(b, make([]byte, 2*tarBlock)...)))
	var got []string
	err := im.Walk(t.Context(), func(e *overlay.Entry) error {
		got = append(got, fmt.Sprintf("%s %d:%d %d %v", e.Path, e.UID, e.GID, e.Mtime.Sec, e.Xattrs))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "the tar", []string{". 0:0 0 []", "a 1:78 3 [{user.empty []}]", "b 77:2 0 []"}, got)
}

// An archive can't make many layers of few bytes.
func TestReadTooManyLayers(t *testing.T) {
	layers := strings.Repeat(`"l",`, maxLayers) + `"l"`
	_, err := OpenImage(writeFile(t, makeTar(t, file("manifest.json", `[{"Layers":[`+layers+`]}]`), file("l", ""))), 0)
	if err == nil || !strings.HasSuffix(err.Error(), "a docker archive of 501 layers, more than 500") {
		t.Errorf("error %v", err)
	}
}

// Whiteouts take no longer for others in their directory.
func TestReadManyWhiteouts(t *testing.T) {
	var files, others, gone, opaque []member
	for i := range 20_000 {
		name := fmt.Sprint(i)
		files = append(files, file("d/"+name, ""))
		others = append(others, file("e/"+name, ""))
		gone = append(gone, file("d/.wh."+name, ""))
		opaque = append(opaque, file("e/.wh..wh..opq", ""), file("e/"+name, ""))
	}
	lower := makeTar(t, files...)
	read := func(upper []member, want int) time.Duration {
		b := append(bytes.Clone(lower), makeTar(t, upper...)...)
		size := int64(len(lower))
		start := time.Now()
		tree := readTar("", bytes.NewReader(b), true, tarSection{0, size}, tarSection{size, int64(len(b)) - size})
		took := time.Since(start)
		if dir, err := tree.dir("d", 1); err != nil || len(dir.children) != want {
			t.Errorf("%d names are left, not %d (%v)", len(dir.children), want, err)
		}
		return took
	}
	usual := read(others, len(files))
	for what, took := range map[string]time.Duration{"whiteouts": read(gone, 0), "opaque": read(opaque, len(files))} {
		if took > 10*usual+time.Second {
			t.Errorf("%s took %v, others %v", what, took, usual)
		}
	}
}

// A check of a tar tells what is wrong, and where.
func TestCheckTar(t *testing.T) {
	good := makeTar(t, file("a", "content"), file("b", "more"))
	changed := func(at int, with string) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	var manyXattrs []string
	for i := range maxGlobalXattrs + 1 {
		manyXattrs = append(manyXattrs, fmt.Sprintf("SCHILY.xattr.user.%d", i), "")
	}
	header := tarHeader{typ: typePAXGlobal, name: "g", size: maxGlobal + 1}
	large, err := header.appendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	large = append(large, make([]byte, maxGlobal+4*tarBlock)...)
	for _, c := range []struct {
		name string
		tar  []byte
		want string
	}{
		{"checksum", changed(1024, "x"), "tar header at 1024: the checksum is wrong"},
		{"cut off", good[:1536+2], "the archive is cut off"},
		{"no end", good[:2048], "doesn't end with two blocks of zeros"},
		{"climbs out", makeTar(t, file("../a", "")), `"../a": the name leads out of a directory`},
		{"missing target", makeTar(t, member{tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "none"}, ""}), `a hard link to "none"`},
		{"deep", makeTar(t, file(strings.Repeat("a/", 50_000)+"f", "")), "a/a/\": the name has 100001 bytes, more than 65536"},
		{"owner", makeTar(t, member{tar.Header{Name: "a", Uid: 1 << 32}, ""}), `pax record uid="4294967296"`},
		{"group", makeTar(t, member{tar.Header{Name: "a", Gid: 1 << 32, Format: tar.FormatGNU}, ""}), "owner 0:4294967296 is out of range"},
		{"negative owner", makeTar(t, member{tar.Header{Name: "a", Uid: -1, Format: tar.FormatGNU}, ""}), "owner -1:0 is out of range"},
		{"global header", large, "an extended header of 1048577 bytes"},
		{"global attributes", makeTar(t, global(manyXattrs...)), "more than 256 extended attributes for all members"},
		{"below a link to itself", makeTar(t, member{tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "a"}, ""}, file("a/b", "")), "too many levels of symbolic links"},
		{"below a file", makeTar(t, file("a", ""), file("a/b", "")), `"a" above it is no directory`},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := problemsOf(t, openImage(t, writeFile(t, c.tar)))
			if len(list) == 0 || !strings.Contains(strings.Join(list, "\n"), c.want) {
				t.Errorf("check reports %q, not %q", list, c.want)
			}
		})
	}
}

// withTarSums makes the checksums of everything right that looks like a header,
// so that a changed one is looked at.
func withTarSums(b []byte) []byte {
	b = bytes.Clone(b)
	for at := 0; at+tarBlock <= len(b); at += tarBlock {
		h := b[at:][:tarBlock]
		if string(h[257:262]) != "ustar" {
			continue
		}
		copy(h[148:156], "        ")
		var sum uint64
		for _, c := range h {
			sum += uint64(c)
		}
		octal(h[148:155], sum)
	}
	return b
}

// FuzzTar reads arbitrary bytes as a tar: no panic, and no content outside.
func FuzzTar(f *testing.F) {
	f.Add(makeTar(f, file("a/b", "content"), file("c", "")))
	f.Add(makeTar(f, member{tar.Header{
		Name: strings.Repeat("n", 150), Typeflag: tar.TypeSymlink, Linkname: "x", Format: tar.FormatPAX,
		PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"},
	}, ""}))
	f.Fuzz(func(t *testing.T, b []byte) {
		start := time.Now()
		b = withTarSums(b)
		tree := readTar("tar", bytes.NewReader(b), false, tarSection{0, int64(len(b))})
		_ = tree.Check(context.Background(), func(string) error { return nil })
		im := &Image{Filesystem: tree, src: bytes.NewReader(b)}
		_ = im.Walk(context.Background(), func(e *overlay.Entry) error {
			if !e.IsRegular() {
				return nil
			}
			c, err := im.Content(e)
			if err != nil {
				t.Errorf("%s: %v", e.Path, err)
				return nil
			}
			for _, r := range c.Data() {
				if _, err := c.ReadAt(make([]byte, min(r.Len, 1<<20)), r.Off); err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("%s: %v", e.Path, err)
				}
			}
			return nil
		})
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
