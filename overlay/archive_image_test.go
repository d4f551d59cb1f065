package overlay

import (
	"archive/tar"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// threeLayers is an image whose upper layers take away, replace and reach
// through links of the lower ones.
func threeLayers(t testing.TB) testImage {
	return testImage{arch: "amd64", ref: "demo:1", layers: [][]byte{
		tarOf(t, aDir("usr"), aDir("usr/bin"), aFile("usr/bin/sh", "1"), aLink("bin", "usr/bin"), aDir("etc"), aFile("etc/a", "1"), aFile("gone", "1"), aDir("var"), aFile("var/x", "1")),
		tarOf(t, aFile("bin/ls", "2"), aFile(".wh.gone", ""), aDir("etc"), aFile("etc/.wh..wh..opq", ""), aFile("etc/b", "2"),
			aFile(".wh..wh.plnk/1", ""), aFile(".wh.var", ""), aDir("var"), aFile("var/y", "2")),
		tarOf(t, aFile("bin/cp", "3"), aDir("etc"), aFile("etc/.wh.b", ""), aFile("etc/b", "3"), aFile("new/.wh.old", "")),
	}}
}

func threeLayersLines() [][]string {
	return [][]string{
		{
			". 40755 0:0 implicit", "usr 40755 0:0 0s", "usr/bin 40755 0:0 0s", "usr/bin/sh 100644 0:0 0s =1", "bin 120777 0:0 0s ->usr/bin",
			"etc 40755 0:0 0s", "etc/a 100644 0:0 0s =1", "gone 100644 0:0 0s =1", "var 40755 0:0 0s", "var/x 100644 0:0 0s =1",
		},
		{
			". 40755 0:0 implicit", "usr 40755 0:0 implicit", "usr/bin 40755 0:0 implicit", "usr/bin/ls 100644 0:0 0s =2", "gone whiteout",
			`etc 40755 0:0 0s user.rootfs.opaque="y"`, "etc/b 100644 0:0 0s =2", `var 40755 0:0 0s user.rootfs.opaque="y"`, "var/y 100644 0:0 0s =2",
		},
		{
			". 40755 0:0 implicit", "usr 40755 0:0 implicit", "usr/bin 40755 0:0 implicit", "usr/bin/cp 100644 0:0 0s =3",
			"etc 40755 0:0 0s", "etc/b 100644 0:0 0s =3", "new 40755 0:0 implicit", "new/old whiteout",
		},
	}
}

func wantThreeLayers(t *testing.T, dirs []string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	want := threeLayersLines()
	if len(dirs) != len(want) {
		t.Fatalf("%d layers, want %d", len(dirs), len(want))
	}
	for i, dir := range dirs {
		wantLines(t, recorded(t, dir), want[i]...)
	}
}

func unpackPath(t *testing.T, path, arch string) ([]string, error) {
	t.Helper()
	return unpackArchive(context.Background(), path, filepath.Join(t.TempDir(), "cache"), arch, slog.New(slog.DiscardHandler))
}

func ociTar(t testing.TB, files map[string][]byte, prefix string) []byte {
	t.Helper()
	var entries []tarEntry
	for _, name := range slices.Sorted(maps.Keys(files)) {
		entries = append(entries, aFile(prefix+name, string(files[name])))
	}
	return tarOf(t, entries...)
}

func TestUnpackImages(t *testing.T) {
	image := threeLayers(t)
	gz, zst := compressions(t)["gzip"], compressions(t)["zstd"]
	packed := testImage{
		arch: image.arch, ref: image.ref, diffs: image.layers,
		layers: [][]byte{gz(image.layers[0]), zst(image.layers[1]), image.layers[2]},
	}
	for name, content := range map[string][]byte{
		"docker archive":                     dockerArchive(t, image),
		"docker archive, layers compressed":  dockerArchive(t, packed),
		"docker archive, compressed":         gz(dockerArchive(t, image)),
		"tar of an OCI layout":               ociTar(t, ociFiles(t, packed), ""),
		"tar of an OCI layout, made with ./": zst(ociTar(t, ociFiles(t, packed), "./")),
	} {
		t.Run(name, func(t *testing.T) {
			dirs, err := unpacked(t, content)
			wantThreeLayers(t, dirs, err)
		})
	}
	t.Run("OCI layout", func(t *testing.T) {
		dirs, err := unpackPath(t, ociDir(t, ociFiles(t, packed)), "x86_64")
		wantThreeLayers(t, dirs, err)
	})
	t.Run("docker archive with links to layers", func(t *testing.T) {
		layer := tarOf(t, aFile("a", "1"))
		twice := testImage{arch: "amd64", layers: [][]byte{layer, layer}}
		config, id := twice.config(t), digestOf(layer)
		dirs, err := unpacked(t, tarOf(t,
			aFile(id+".tar", string(layer)), aLink(id+"/layer.tar", "../"+id+".tar"),
			aFile("config.json", string(config)),
			aFile("manifest.json", `[{"Config":"config.json","Layers":["`+id+`/layer.tar","`+id+`.tar"]}]`)))
		if err != nil || len(dirs) != 2 || dirs[0] == dirs[1] {
			t.Errorf("got %v, %v; want two layers", dirs, err)
		}
	})
}

func TestUnpackLeavesOutLayersThatAreHiddenWhole(t *testing.T) {
	lower, upper := tarOf(t, aFile("a", "1")), tarOf(t, aFile("b", "2"), aFile(".wh..wh..opq", ""))
	dirs, err := unpackPath(t, ociDir(t, ociFiles(t, testImage{arch: "amd64", layers: [][]byte{lower, upper, lower}})), "")
	if err != nil || len(dirs) != 2 {
		t.Fatalf("got %v, %v; want two layers", dirs, err)
	}
	wantLines(t, recorded(t, dirs[0]), `. 40755 0:0 implicit user.rootfs.opaque="y"`, "b 100644 0:0 0s =2")
	wantLines(t, recorded(t, dirs[1]), `. 40755 0:0 implicit`, "a 100644 0:0 0s =1")
}

// One image under two names is one.
func TestUnpackTakesAnImageOfTwoNames(t *testing.T) {
	files := ociFiles(t, threeLayers(t))
	var index struct {
		SchemaVersion int              `json:"schemaVersion"`
		Manifests     []map[string]any `json:"manifests"`
	}
	must(t, json.Unmarshal(files["index.json"], &index))
	again := maps.Clone(index.Manifests[0])
	again["annotations"] = map[string]string{"org.opencontainers.image.ref.name": "demo:latest"}
	index.Manifests = append(index.Manifests, again)
	files["index.json"] = toJSON(t, index)
	dirs, err := unpackPath(t, ociDir(t, files), "x86_64")
	wantThreeLayers(t, dirs, err)
}

// What an archiver puts before the first member doesn't make an image a tree.
func TestUnpackTellsAnImageBehindALabel(t *testing.T) {
	layer := tarOf(t, aFile("a", "1"))
	image := dockerArchive(t, testImage{arch: "amd64", layers: [][]byte{layer}})
	label := withChecksum(tarOf(t, aFile("image of 2024", ""))[1024:1536], func(h []byte) { h[156] = 'V' })
	comment := tarOf(t, tarEntry{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""})
	for name, before := range map[string][]byte{"label": label, "global header": comment[:1024]} {
		t.Run(name, func(t *testing.T) {
			dirs, err := unpacked(t, slices.Concat(before, image))
			must(t, err)
			wantLines(t, recorded(t, dirs[0]), ". 40755 0:0 implicit", "a 100644 0:0 0s =1")
		})
	}
}

// A link that the layer itself hides leads nowhere any more.
func TestUnpackFollowsNoHiddenLinks(t *testing.T) {
	lower := tarOf(t, aLink("d/link", "/e"), aLink("g/link", "/e"), aFile("e/a", "1"))
	upper := tarOf(t, aDir("d"), aFile("d/.wh..wh..opq", ""), aFile("d/link/x", "2"), aFile(".wh.g", ""), aFile("g/link/x", "2"))
	dirs, err := unpacked(t, dockerArchive(t, testImage{arch: "amd64", layers: [][]byte{lower, upper}}))
	must(t, err)
	wantLines(t, recorded(t, dirs[1]), ". 40755 0:0 implicit",
		`d 40755 0:0 0s user.rootfs.opaque="y"`, "d/link 40755 0:0 implicit", "d/link/x 100644 0:0 0s =2",
		`g 40755 0:0 implicit user.rootfs.opaque="y"`, "g/link 40755 0:0 implicit", "g/link/x 100644 0:0 0s =2")
}

func TestUnpackSharesLayersOfImages(t *testing.T) {
	base, a, b := tarOf(t, aFile("base", "")), tarOf(t, aFile("a", "")), tarOf(t, aFile("b", ""))
	cache := filepath.Join(t.TempDir(), "cache")
	var dirs [2][]string
	for i, upper := range [][]byte{a, b} {
		path := ociDir(t, ociFiles(t, testImage{arch: "amd64", layers: [][]byte{base, upper}}))
		var err error
		if dirs[i], err = unpackArchive(context.Background(), path, cache, "", slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	if dirs[0][0] != dirs[1][0] || dirs[0][1] == dirs[1][1] {
		t.Errorf("layers %v; want the lower the same and the upper not", dirs)
	}
}

// The same tar by itself and as a layer of an image: only there do names say
// what is gone.
func TestUnpackTellsATarFromALayer(t *testing.T) {
	dir, one := t.TempDir(), tarOf(t, aFile("a", "1"), aFile(".wh.b", ""))
	file := save(t, filepath.Join(dir, "archive"), one)
	image := ociDir(t, ociFiles(t, testImage{arch: "amd64", layers: [][]byte{one}}))
	for _, order := range [][]string{{file, image}, {image, file}} {
		cache := filepath.Join(t.TempDir(), "cache")
		for _, path := range order {
			dirs, err := unpackArchive(context.Background(), path, cache, "", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			gone := "b whiteout"
			if path == file {
				gone = ".wh.b 100644 0:0 0s ="
			}
			wantLines(t, recorded(t, dirs[0]), ". 40755 0:0 implicit", "a 100644 0:0 0s =1", gone)
		}
	}
}

func TestUnpackChoosesTheArchitecture(t *testing.T) {
	x86 := testImage{arch: "amd64", ref: "demo:x86", layers: [][]byte{tarOf(t, aFile("x86", ""))}}
	arm := testImage{arch: "arm64", ref: "demo:arm", layers: [][]byte{tarOf(t, aFile("arm", ""))}}
	two := x86
	two.ref, two.layers = "demo:two", arm.layers
	for name, c := range map[string]struct {
		images []testImage
		arch   string
		file   string // that the layer has
		err    string
	}{
		"one of two":     {images: []testImage{x86, arm}, arch: "aarch64", file: "arm"},
		"the only one":   {images: []testImage{x86}, arch: "riscv64", file: "x86"},
		"none":           {images: []testImage{x86, arm}, arch: "riscv64", err: "no image for riscv64 in it, only demo:x86 (amd64), demo:arm (arm64)"},
		"several":        {images: []testImage{x86, two}, arch: "x86_64", err: "several images in it, demo:x86 (amd64), demo:two (amd64)"},
		"none at all":    {arch: "x86_64", err: "no image for Linux"},
		"no arch wanted": {images: []testImage{x86, arm}, err: "several images"},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, path := range map[string]string{
				"docker": save(t, filepath.Join(t.TempDir(), "archive"), dockerArchive(t, c.images...)),
				"oci":    ociDir(t, ociFiles(t, c.images...)),
			} {
				dirs, err := unpackPath(t, path, c.arch)
				switch {
				case c.err != "":
					if err == nil || !strings.Contains(err.Error(), c.err) {
						t.Errorf("%s: %v, want %q", kind, err, c.err)
					}
				case err != nil:
					t.Errorf("%s: %v", kind, err)
				default:
					if _, err := os.Stat(filepath.Join(dirs[0], c.file)); err != nil {
						t.Errorf("%s: wrong image: %v", kind, err)
					}
				}
			}
		})
	}
}

func TestUnpackRefusesDamagedImages(t *testing.T) {
	good := threeLayers(t)
	bad := good
	bad.diffs = [][]byte{good.layers[0], good.layers[0], good.layers[2]}
	fewer := good
	fewer.diffs = good.layers[:2]
	damaged := func(change func(map[string][]byte)) map[string][]byte {
		files := ociFiles(t, good)
		change(files)
		return files
	}
	layer := "blobs/sha256/" + digestOf(good.layers[1])
	config := "blobs/sha256/" + digestOf(good.config(t))
	for name, c := range map[string]struct {
		path string
		want string
	}{
		"docker, wrong digest":     {save(t, filepath.Join(t.TempDir(), "a"), dockerArchive(t, bad)), "damaged: its content has the digest"},
		"docker, too few digests":  {save(t, filepath.Join(t.TempDir(), "a"), dockerArchive(t, fewer)), "3 layers, but"},
		"docker, no layer":         {save(t, filepath.Join(t.TempDir(), "a"), tarOf(t, aFile("manifest.json", `[{"Config":"c.json"}]`))), "c.json: file does not exist"},
		"docker, compressed":       {save(t, filepath.Join(t.TempDir(), "a"), compressions(t)["gzip"](dockerArchive(t, fewer))), "3 layers, but"},
		"docker, no JSON":          {save(t, filepath.Join(t.TempDir(), "a"), tarOf(t, aFile("manifest.json", `[`))), "manifest.json: unexpected"},
		"OCI, wrong content":       {ociDir(t, ociFiles(t, bad)), "damaged: its content"},
		"OCI, layer gone":          {ociDir(t, damaged(func(f map[string][]byte) { delete(f, layer) })), "no such file"},
		"OCI, other layer":         {ociDir(t, damaged(func(f map[string][]byte) { f[layer] = good.layers[0] })), "damaged"},
		"OCI, layer longer":        {ociDir(t, damaged(func(f map[string][]byte) { f[layer] = append(slices.Clip(f[layer]), 0) })), "damaged"},
		"OCI, other config":        {ociDir(t, damaged(func(f map[string][]byte) { f[config] = []byte("{}") })), "damaged: its 2 bytes"},
		"OCI, a layer of no tar":   {ociDir(t, ociFiles(t, testImage{layers: [][]byte{[]byte(strings.Repeat("x", 1024))}})), "layer sha256:"},
		"directory without an OCI": {t.TempDir(), "not an OCI layout"},
	} {
		t.Run(name, func(t *testing.T) {
			dirs, err := unpackPath(t, c.path, "")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("got %v, %v; want the path and %q", dirs, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "already closed") {
				t.Errorf("the error tells of the program itself: %v", err)
			}
		})
	}
}
