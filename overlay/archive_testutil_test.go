package overlay

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// needTool skips the test where there is no such program, or fails it where
// ROOTFS_TEST_REQUIRE names the program.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if slices.Contains(strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ","), name) {
			t.Fatalf("%s is required: %v", name, err)
		}
		t.Skipf("SKIPPED, needs %s: %v", name, err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

var testTime = time.Unix(1_600_000_000, 123_456_789)

// tarEntry is a header and the content that it announces.
type tarEntry struct {
	tar.Header
	content string
}

func aFile(name, content string) tarEntry {
	return tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func aDir(name string) tarEntry {
	return tarEntry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}

func aLink(name, target string) tarEntry {
	return tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func aHardLink(name, target string) tarEntry {
	return tarEntry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, ""}
}

// with gives an entry extended attributes: name, value, name, value …
func (e tarEntry) with(attrs ...string) tarEntry {
	e.PAXRecords = map[string]string{}
	for pair := range slices.Chunk(attrs, 2) {
		e.PAXRecords[paxStar+pair[0]] = pair[1]
	}
	return e
}

func tarOf(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag != tar.TypeXGlobalHeader {
			e.Format = tar.FormatPAX
			e.Size = int64(len(e.content))
			if e.ModTime.IsZero() {
				e.ModTime = testTime
			}
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withChecksum changes a header and makes its checksum right.
func withChecksum(h []byte, change func(h []byte)) []byte {
	change(h)
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func save(t testing.TB, file string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// unpacked is what unpackArchive gives for content in a cache of its own.
func unpacked(t *testing.T, content []byte) (dirs []string, err error) {
	t.Helper()
	dir := t.TempDir()
	return unpackArchive(context.Background(), save(t, filepath.Join(dir, "archive"), content),
		filepath.Join(dir, "cache"), "x86_64", slog.New(slog.DiscardHandler))
}

// recorded describes the layer at root, one line a path. Times are relative
// to testTime; the implicit directories have none.
func recorded(t *testing.T, root string) []string {
	t.Helper()
	implicit, err := implicitDirs(root)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	firstName := map[uint64]string{}
	err = filepath.WalkDir(root, func(host string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, host)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(host, &st); err != nil {
			return err
		}
		line := name
		if isWhiteout(st.Mode) {
			lines = append(lines, line+" whiteout")
			return nil
		}
		m, err := metaAt(host, &st)
		if err != nil {
			return err
		}
		line += fmt.Sprintf(" %o %d:%d", m.mode, m.uid, m.gid)
		switch {
		case implicit[name]:
			line += " implicit"
		default:
			line += " " + TimeOf(st.Mtim).Time().Sub(testTime).String()
		}
		line += describeContent(t, host, m)
		if m.mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first, seen := firstName[st.Ino]; seen {
				line += " same as " + first
			} else {
				firstName[st.Ino] = name
			}
		}
		lines = append(lines, line+describeXattrs(t, host))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func describeContent(t *testing.T, host string, m meta) string {
	t.Helper()
	switch m.mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK:
		b, err := os.ReadFile(host)
		if err != nil {
			t.Fatal(err)
		}
		mark := " ="
		if m.mode&unix.S_IFMT == unix.S_IFLNK {
			mark = " ->"
		}
		if len(b) > 100 {
			return fmt.Sprintf("%s%d bytes %x", mark, len(b), sha256.Sum256(b))
		}
		return mark + string(b)
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf(" %d,%d", unix.Major(m.rdev), unix.Minor(m.rdev))
	}
	return ""
}

func describeXattrs(t *testing.T, host string) string {
	t.Helper()
	names, err := xattr.LList(host)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var all string
	for _, name := range names {
		if name == xattrMeta || name == "security.selinux" {
			continue
		}
		value, err := xattr.LGet(host, name)
		if err != nil {
			t.Fatal(err)
		}
		all += fmt.Sprintf(" %s=%q", name, value)
	}
	return all
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("not expected: %s", line)
		}
	}
}

// testImage is an image of one architecture.
type testImage struct {
	arch   string
	ref    string
	layers [][]byte // tars, compressed or not
	diffs  [][]byte // the same, not compressed; nil where they are the same
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (i testImage) config(t testing.TB) []byte {
	t.Helper()
	diffs := i.diffs
	if diffs == nil {
		diffs = i.layers
	}
	ids := []string{}
	for _, layer := range diffs {
		ids = append(ids, "sha256:"+digestOf(layer))
	}
	return toJSON(t, map[string]any{
		"architecture": i.arch, "os": "linux",
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dockerArchive is what "docker save" writes, with a layer a file.
func dockerArchive(t testing.TB, images ...testImage) []byte {
	t.Helper()
	var entries []tarEntry
	var manifest []any
	for _, i := range images {
		config := i.config(t)
		files := []string{}
		for _, layer := range i.layers {
			file := digestOf(layer) + "/layer.tar"
			files = append(files, file)
			entries = append(entries, aFile(file, string(layer)))
		}
		entries = append(entries, aFile(digestOf(config)+".json", string(config)))
		manifest = append(manifest, map[string]any{
			"Config": digestOf(config) + ".json", "RepoTags": []string{i.ref}, "Layers": files,
		})
	}
	entries = append(entries, aFile("manifest.json", string(toJSON(t, manifest))))
	return tarOf(t, entries...)
}

// ociFiles are the files of an OCI layout, by name.
func ociFiles(t testing.TB, images ...testImage) map[string][]byte {
	t.Helper()
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(mediaType string, b []byte) map[string]any {
		files["blobs/sha256/"+digestOf(b)] = b
		return map[string]any{"mediaType": mediaType, "size": len(b), "digest": "sha256:" + digestOf(b)}
	}
	var all []any
	for _, i := range images {
		layers := []any{}
		for _, layer := range i.layers {
			layers = append(layers, add("application/vnd.oci.image.layer.v1.tar", layer))
		}
		d := add("application/vnd.oci.image.manifest.v1+json", toJSON(t, map[string]any{
			"schemaVersion": 2, "layers": layers,
			"config": add("application/vnd.oci.image.config.v1+json", i.config(t)),
		}))
		d["annotations"] = map[string]string{"org.opencontainers.image.ref.name": i.ref}
		all = append(all, d)
	}
	files["index.json"] = toJSON(t, map[string]any{"schemaVersion": 2, "manifests": all})
	return files
}

func ociDir(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	for name, content := range files {
		save(t, filepath.Join(dir, name), content)
	}
	return dir
}
