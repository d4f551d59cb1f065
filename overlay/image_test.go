package overlay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// fakeRegistry has the images of an OCI layout, of which the references name
// the first for the architecture.
type fakeRegistry struct {
	files map[string][]byte
	asked int
}

func (r *fakeRegistry) Resolve(_ context.Context, ref, arch string) (v1.Hash, error) {
	r.asked++
	var index v1.IndexManifest
	if err := json.Unmarshal(r.files[ociIndex], &index); err != nil {
		return v1.Hash{}, err
	}
	for _, d := range index.Manifests {
		c, err := ociCandidate(mapBlobs(r.files), d)
		if err == nil && c.arch == goArch[arch] {
			return d.Digest, nil
		}
	}
	return v1.Hash{}, fmt.Errorf("%s: no image for %s", ref, arch)
}

func (r *fakeRegistry) Open(_ context.Context, _ string, d v1.Descriptor) (io.ReadCloser, error) {
	r.asked++
	return mapBlobs(r.files).open(blobName(d.Digest))
}

type mapBlobs map[string][]byte

func (m mapBlobs) open(name string) (io.ReadCloser, error) {
	b, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

const baseFromRegistry = `rootfs.toml arch = "aarch64"|[base]|source = "example.org/team/base:1"|`

func imageOf(t *testing.T, arch, content string) testImage {
	return testImage{arch: arch, layers: [][]byte{tarOf(t, aFile("os-release", content))}}
}

func TestBaseFromRegistryIsLocked(t *testing.T) {
	p := project(t, baseFromRegistry)
	arm := imageOf(t, "arm64", "arm 1")
	registry := &fakeRegistry{files: ociFiles(t, imageOf(t, "amd64", "x86"), arm)}
	p.Registry = registry
	wantContent(t, p, "os-release", "arm 1")

	// Neither the registry nor a newer image there matters from now on.
	registry.files, registry.asked = ociFiles(t, imageOf(t, "arm64", "arm 2")), 0
	wantContent(t, p, "os-release", "arm 1")
	if registry.asked != 0 {
		t.Errorf("the registry was asked %d times for what the cache has", registry.asked)
	}
	p.Registry = nil
	wantContent(t, p, "os-release", "arm 1")

	// Only when that is wanted.
	p.Registry = registry
	images, err := p.LockImages(context.Background())
	if err != nil || len(images) != 1 || images[0].Source != "example.org/team/base:1" {
		t.Fatalf("locked %v, %v", images, err)
	}
	wantContent(t, p, "os-release", "arm 2")
}

func wantContent(t *testing.T, p *Project, path, want string) {
	t.Helper()
	tree, err := Open(p, Options{ReadOnly: true})
	must(t, err)
	defer tree.Close() //nolint:errcheck // only read
	f, err := tree.Content(at(t, tree, path)).Open()
	must(t, err)
	defer f.Close() //nolint:errcheck // only read
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	must(t, err)
	if string(got) != want {
		t.Errorf("%s has %q, want %q", path, got, want)
	}
}

func TestBaseFromRegistryRefuses(t *testing.T) {
	image := imageOf(t, "arm64", "real")
	layer := "blobs/sha256/" + digestOf(image.layers[0])
	for name, c := range map[string]struct {
		spoil func(p *Project, r *fakeRegistry)
		err   string
	}{
		"a layer with another content": {func(_ *Project, r *fakeRegistry) {
			r.files[layer] = tarOf(t, aFile("os-release", "fake"))
		}, "damaged"},
		"a manifest with another content": {func(p *Project, r *fakeRegistry) {
			must(t, os.WriteFile(p.LockFile(), []byte("[[image]]\nsource = 'example.org/team/base:1'\narch = 'aarch64'\ndigest = 'sha256:"+strings.Repeat("0", 64)+"'\n"), 0o644))
			r.files["blobs/sha256/"+strings.Repeat("0", 64)] = []byte("{}")
		}, "damaged"},
		"a lock file with a wrong digest": {func(p *Project, _ *fakeRegistry) {
			must(t, os.WriteFile(p.LockFile(), []byte("[[image]]\nsource = 'example.org/team/base:1'\narch = 'aarch64'\ndigest = 'md5:1'\n"), 0o644))
		}, `"md5:1" is no sha256 digest; remove the entry`},
		"a lock file with unknown keys": {func(p *Project, _ *fakeRegistry) {
			must(t, os.WriteFile(p.LockFile(), []byte("[[images]]\n"), 0o644))
		}, "remove the file"},
		"no registry": {func(p *Project, _ *fakeRegistry) { p.Registry = nil }, "there is no registry to ask"},
	} {
		t.Run(name, func(t *testing.T) {
			p := project(t, baseFromRegistry)
			r := &fakeRegistry{files: ociFiles(t, image)}
			p.Registry = r
			c.spoil(p, r)
			tree, err := Open(p, Options{ReadOnly: true})
			if err == nil {
				_ = tree.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "base") {
				t.Fatalf("error %v; want one with %q", err, c.err)
			}
			left, err := filepath.Glob(filepath.Join(p.cacheDir(), "layers", "*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left in the cache: %v, %v", left, err)
			}
		})
	}
}

func TestImageReference(t *testing.T) {
	for source, want := range map[string]bool{
		"ubuntu:24.04":                                  true,
		"localhost:5000/team/os:1":                      true,
		"ghcr.io/a/b@sha256:" + strings.Repeat("a", 64): true,
		"base/debian.tar":                               false,
		"localhost:5000/base":                           false,
		"./ubuntu:24.04":                                false,
		"/ubuntu:24.04":                                 false,
		"../ubuntu:24.04":                               false,
		"Base:x":                                        false,
		"":                                              false,
	} {
		if got := IsImageReference(source); got != want {
			t.Errorf("%q: %v, want %v", source, got, want)
		}
	}
}
