package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func newLayer(t testing.TB, tr *tree) Layer {
	t.Helper()
	name, sum := writeTar(t, tr.entries, TarOptions{Digest: true})
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFile(t, f) })
	return Layer{File: f, TarSum: sum}
}

var testImage = ImageOptions{Arch: "riscv64", Tag: "dragonos/rootfs:1.0", Created: time.Unix(1_600_000_000, 0)}

func writeDocker(t testing.TB, name string, l Layer, opts ImageOptions) {
	t.Helper()
	o, err := CreateOutput(name)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Discard()
	if err := WriteDocker(t.Context(), o.File, CompressionOf(name), l, opts); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
}

func writeLayout(t testing.TB, name string, l Layer, opts ImageOptions) {
	t.Helper()
	o, err := CreateOutputDir(name, MayReplaceOCI)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Discard()
	if err := WriteOCI(t.Context(), o.Path, l, opts); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
}

// inspection is what skopeo says of an image.
type inspection struct {
	Created, Architecture, Os string
	RepoTags                  []string
}

func wantInspection(t *testing.T, image string) {
	t.Helper()
	var got inspection
	if err := json.Unmarshal([]byte(run(t, "skopeo", "inspect", image)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Created != "2020-09-13T12:26:40Z" || got.Architecture != "riscv64" || got.Os != "linux" {
		t.Errorf("%s is %+v", image, got)
	}
}

func TestSkopeoAndUmociTakeDockerArchive(t *testing.T) {
	needRoot(t)
	needTool(t, "skopeo")
	needTool(t, "umoci")
	tr := everyKind(t)
	l := newLayer(t, tr)
	// Not ".gz": Debian 12's skopeo 1.9.3 and podman 4.3.1 refuse any gzipped
	// docker archive, also skopeo's own packed by gzip(1).
	for _, ending := range []string{"", ".zst"} {
		t.Run("tar"+ending, func(t *testing.T) {
			dir := t.TempDir()
			archive := filepath.Join(dir, "image.tar"+ending)
			writeDocker(t, archive, l, testImage)
			wantInspection(t, "docker-archive:"+archive)
			if got := run(t, "skopeo", "list-tags", "docker-archive:"+archive); !strings.Contains(got, `"dragonos/rootfs:1.0"`) {
				t.Errorf("tags: %s", got)
			}
			layout := filepath.Join(dir, "layout")
			run(t, "skopeo", "copy", "-q", "docker-archive:"+archive, "oci:"+layout+":1.0")
			wantUnpacked(t, tr, layout)
		})
	}
}

func TestSkopeoAndUmociTakeOCILayout(t *testing.T) {
	needRoot(t)
	needTool(t, "skopeo")
	needTool(t, "umoci")
	tr := everyKind(t)
	layout := filepath.Join(t.TempDir(), "layout")
	writeLayout(t, layout, newLayer(t, tr), testImage)
	wantInspection(t, "oci:"+layout+":1.0")
	wantUnpacked(t, tr, layout)
	archive := filepath.Join(filepath.Dir(layout), "back.tar")
	run(t, "skopeo", "copy", "-q", "oci:"+layout+":1.0", "docker-archive:"+archive+":x:y")
}

// wantUnpacked compares an image with the tree, but for what umoci can't: it
// takes attribute names literally, fills holes, and its times are int64 in
// nanoseconds.
func wantUnpacked(t *testing.T, tr *tree, layout string) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", layout+":1.0", bundle)
	compared := func(lines []string) []string {
		var out []string
		for _, l := range lines {
			if strings.HasPrefix(l, `"xattrs"`) || strings.HasPrefix(l, `"time-2446"`) {
				continue
			}
			if before, rest, ok := strings.Cut(l, " data="); ok {
				_, after, _ := strings.Cut(rest, " sha256=")
				l = before + " sha256=" + after
			}
			out = append(out, l)
		}
		return out
	}
	equalLines(t, "unpacked image", compared(tr.lines()), compared(linesOf(t, filepath.Join(bundle, "rootfs"))))
}

func TestPodmanLoadsDockerArchive(t *testing.T) {
	needRoot(t)
	needTool(t, "podman")
	tr := newTree(t)
	tr.file(overlay.Entry{Path: "hello"}, []byte("hello\n"))
	archive := filepath.Join(t.TempDir(), "image.tar")
	writeDocker(t, archive, newLayer(t, tr), testImage)
	store := []string{"--root", t.TempDir(), "--runroot", t.TempDir(), "--storage-driver", "vfs"}
	run(t, "podman", append(store, "load", "-q", "-i", archive)...)
	got := run(t, "podman", append(store, "images", "--format", "{{.Repository}}:{{.Tag}}")...)
	if got != "localhost/dragonos/rootfs:1.0\n" && got != "docker.io/dragonos/rootfs:1.0\n" {
		t.Errorf("podman has %q", got)
	}
}

func TestGzippedArchiveIsThePlainOne(t *testing.T) {
	l := newLayer(t, everyKind(t))
	plain := filepath.Join(t.TempDir(), "image.tar")
	writeDocker(t, plain, l, testImage)
	writeDocker(t, plain+".gz", l, testImage)
	run(t, "sh", "-c", "gzip -dc "+plain+".gz | cmp - "+plain)
}

func TestLayerIsFoundByName(t *testing.T) {
	l := newLayer(t, everyKind(t))
	archive := filepath.Join(t.TempDir(), "image.tar")
	writeDocker(t, archive, l, testImage)
	hex := hashOf(l.SHA256).Hex
	cmd := run(t, "sh", "-c", "tar -xOf "+archive+" --wildcards '*/layer.tar' | sha256sum")
	if !strings.HasPrefix(cmd, hex) {
		t.Errorf("layer.tar has sum %s, want %s", cmd, hex)
	}
}

func TestSameLayerMakesSameImages(t *testing.T) {
	l := newLayer(t, everyKind(t))
	sums := map[string]string{}
	for _, procs := range []int{1, 2, 7} {
		old := runtime.GOMAXPROCS(procs)
		dir := t.TempDir()
		for _, name := range []string{"a.tar", "a.tar.gz", "a.tar.zst"} {
			writeDocker(t, filepath.Join(dir, name), l, testImage)
		}
		writeLayout(t, filepath.Join(dir, "layout"), l, testImage)
		runtime.GOMAXPROCS(old)
		sum := run(t, "sh", "-c", "cd "+dir+" && find . -type f | sort | xargs sha256sum")
		sums[sum] = dir
	}
	if len(sums) != 1 {
		t.Errorf("images differ with the number of processors: %v", sums)
	}
}

func TestCompressedIsWhatWasWritten(t *testing.T) {
	pattern := bytes.Repeat([]byte("some text, "), 300_000)
	for _, size := range []int{0, 1, gzipBlock - 1, gzipBlock, gzipBlock + 1, 3*gzipBlock + 5} {
		data := pattern[:size]
		for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
			var packed bytes.Buffer
			err := compressTo(&packed, c, func(w io.Writer) error {
				_, err := io.CopyBuffer(w, struct{ io.Reader }{bytes.NewReader(data)}, make([]byte, 777))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := unpack(t, &packed, c); !bytes.Equal(got, data) {
				t.Errorf("compression %d of %d bytes gives back %d other bytes", c, size, len(got))
			}
		}
	}
}

func unpack(t *testing.T, r io.Reader, c Compression) []byte {
	t.Helper()
	var err error
	switch c {
	case Gzip:
		r, err = gzip.NewReader(r)
	case Zstd:
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCompressionByName(t *testing.T) {
	for name, want := range map[string]Compression{
		"a.tar": Uncompressed, "a.tar.gz": Gzip, "a.tgz": Gzip, "a.tar.zst": Zstd, "gz": Uncompressed,
	} {
		if got := CompressionOf(name); got != want {
			t.Errorf("CompressionOf(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestImageErrors(t *testing.T) {
	l := newLayer(t, newTree(t))
	short := l
	short.Size++
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx   context.Context
		layer Layer
		w     io.Writer
		opts  ImageOptions
		want  string
	}{
		"architecture": {t.Context(), l, io.Discard, ImageOptions{Arch: "mips"}, `architecture "mips" is unknown`},
		"tag":          {t.Context(), l, io.Discard, ImageOptions{Arch: "x86_64", Tag: "Root FS"}, `tag "Root FS" is not`},
		"layer":        {t.Context(), short, io.Discard, testImage, "unexpected EOF"},
		"cancel":       {ctx, l, io.Discard, testImage, "context canceled"},
		"full":         {t.Context(), l, failingWriter{unix.ENOSPC}, testImage, "no space left"},
	} {
		for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
			if err := WriteDocker(tc.ctx, tc.w, c, tc.layer, tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: WriteDocker: %v, want %q", name, err, tc.want)
			}
		}
		if tc.w != io.Discard {
			continue
		}
		if err := WriteOCI(tc.ctx, t.TempDir(), tc.layer, tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: WriteOCI: %v, want %q", name, err, tc.want)
		}
	}
}

func TestTags(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "rootfs latest",
		"a":                             "a latest",
		"a/b__c:V1":                     "a/b__c V1",
		"host.example:5000/x":           "host.example:5000/x latest",
		"localhost:5000/x:1.0":          "localhost:5000/x 1.0",
		"a:" + strings.Repeat("t", 128): "a " + strings.Repeat("t", 128),
		"A":                             "", "a:": "", "a b": "", ":x": "", "a@sha256:00": "", "a:" + strings.Repeat("t", 129): "",
	} {
		repository, tag, err := ImageOptions{Tag: in}.tag()
		if got := repository + " " + tag; (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q is %q, error %v; want %q", in, got, err, want)
		}
	}
}

func TestOCILayoutReplacesOnlyLayouts(t *testing.T) {
	dir := t.TempDir()
	if err := MayReplaceOCI(dir); err != nil {
		t.Errorf("empty directory: %v", err)
	}
	writeOutput(t, filepath.Join(dir, "precious"), "")
	if _, err := CreateOutputDir(dir, MayReplaceOCI); err == nil || !strings.Contains(err.Error(), "not an OCI layout") {
		t.Errorf("error %v", err)
	}
	layout := filepath.Join(dir, "layout")
	tr := newTree(t)
	writeLayout(t, layout, newLayer(t, tr), testImage)
	tr.file(overlay.Entry{Path: "new"}, []byte("x"))
	writeLayout(t, layout, newLayer(t, tr), testImage)
	if names := litter(t, filepath.Join(layout, "blobs/sha256")); len(names) != 3 {
		t.Errorf("blobs after replacing: %q", names)
	}
	wantNames(t, dir, "layout", "precious")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o, err := CreateOutputDir(layout, MayReplaceOCI)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteOCI(ctx, o.Path, newLayer(t, tr), testImage); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	o.Discard()
	wantNames(t, dir, "layout", "precious")

	// As skopeo and umoci leave a layout to which they have added an image.
	other := filepath.Join(dir, "other")
	writeLayout(t, other, newLayer(t, tr), testImage)
	index := filepath.Join(other, "index.json")
	var two v1.IndexManifest
	b, err := os.ReadFile(index)
	if err == nil {
		err = json.Unmarshal(b, &two)
	}
	if err != nil {
		t.Fatal(err)
	}
	two.Manifests = append(two.Manifests, two.Manifests[0])
	if b, err = json.Marshal(two); err != nil {
		t.Fatal(err)
	}
	writeOutput(t, index, string(b))
	if _, err := CreateOutputDir(other, MayReplaceOCI); err == nil || !strings.Contains(err.Error(), "has 2 images") {
		t.Errorf("a layout of two images: %v", err)
	}

	writeOutput(t, filepath.Join(layout, "notes"), "")
	if _, err := CreateOutputDir(layout, MayReplaceOCI); err == nil || !strings.Contains(err.Error(), `move "notes" away`) {
		t.Errorf("something else in the layout: %v", err)
	}
}
