package overlay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Names in images: the OCI image layout specification (image-layout.md), and
// Docker's image specification v1.2, "Combined Image JSON + Filesystem
// Changeset Format".
const (
	ociLayout      = "oci-layout"
	ociIndex       = "index.json"
	dockerManifest = "manifest.json"
)

// maxDocument bounds the JSON documents of an image, in bytes.
const maxDocument = 64 << 20

// goArch maps the names of rootfs.toml to those in images (Go's GOARCH).
var goArch = map[string]string{
	"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "loongarch64": "loong64",
}

// openedArchive is an archive of any kind, as the layers in it.
type openedArchive struct {
	layers []archiveLayer // bottom to top
	closer io.Closer
}

// archiveLayer is one tar, compressed or not.
type archiveLayer struct {
	open   func() (io.ReadCloser, error)
	name   string // within the archive; "" for the archive itself
	image  bool   // entries named .wh.* are whiteouts
	diffID string // sha256 of the uncompressed tar, hex; "" when not told
	blob   string // sha256 of the tar as it is, hex; "" when not told
	size   int64  // of the tar as it is, where blob is told
}

// wrap says which layer an error is about.
func (l *archiveLayer) wrap(err error) error {
	if l.name == "" {
		return err
	}
	return fmt.Errorf("layer %s: %w", l.name, err)
}

// blobs are the files of an image, in whatever they are kept.
type blobs interface {
	open(name string) (io.ReadCloser, error)
}

// dirBlobs are those of an OCI layout on the host.
type dirBlobs struct{ *os.Root }

func (d dirBlobs) open(name string) (io.ReadCloser, error) { return d.Open(filepath.FromSlash(name)) }

// openArchive finds out what is at path. tmp is a directory for what must be
// kept while it is open.
func openArchive(ctx context.Context, path, arch, tmp string, log *slog.Logger) (*openedArchive, error) {
	want := imageWanted{arch: goArch[arch], log: log}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		layers, err := want.ociImage(dirBlobs{root})
		if err != nil {
			return nil, errors.Join(err, root.Close())
		}
		return &openedArchive{layers: layers, closer: root}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a, err := want.tarArchive(ctx, f, tmp)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// tarArchive tells a rootfs tar, a docker archive and an OCI layout in a tar
// apart, by what is in them. It closes f with the result.
func (w *imageWanted) tarArchive(ctx context.Context, f *os.File, tmp string) (*openedArchive, error) {
	index, err := indexImage(ctx, f)
	if err != nil {
		return nil, err
	}
	if index == nil {
		return &openedArchive{closer: f, layers: []archiveLayer{{open: func() (io.ReadCloser, error) {
			_, err := f.Seek(0, io.SeekStart)
			return io.NopCloser(f), err
		}}}}, nil
	}
	if !index.compressed {
		return w.imageArchive(index, f)
	}
	// Members are read out of order.
	spooled, err := spool(ctx, f, filepath.Join(tmp, "image.tar"))
	if err != nil {
		return nil, err
	}
	if index, err = indexImage(ctx, spooled); err == nil && index == nil {
		err = errors.New("changed while it was read; try again")
	}
	var a *openedArchive
	if err == nil {
		a, err = w.imageArchive(index, spooled)
	}
	if err != nil {
		return nil, errors.Join(err, spooled.Close())
	}
	closeRead(f)
	return a, nil
}

// imageArchive opens an image whose members are in f, uncompressed.
func (w *imageWanted) imageArchive(index *imageIndex, f *os.File) (*openedArchive, error) {
	index.file = f
	open := w.ociImage
	if index.has(dockerManifest) {
		open = w.dockerImage
	}
	layers, err := open(index)
	if err != nil {
		return nil, err
	}
	return &openedArchive{layers: layers, closer: f}, nil
}

func spool(ctx context.Context, f *os.File, to string) (*os.File, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	src, err := decompress(f)
	if err != nil {
		return nil, err
	}
	defer closeRead(src)
	out, err := os.Create(to)
	if err != nil {
		return nil, err
	}
	ahead := startReadAhead(ctx, src, io.Discard)
	defer ahead.Close()
	if _, err := io.Copy(out, ahead); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// imageWanted says which image to take.
type imageWanted struct {
	arch string // GOARCH, "" for any
	log  *slog.Logger
}

// candidate is one image of an archive that may hold several.
type candidate struct {
	id     string // what tells it from others; an image may have several names
	name   string // for people
	arch   string // GOARCH, "" when not told
	layers func() ([]archiveLayer, error)
}

// choose takes the candidate for the architecture wanted.
func (w *imageWanted) choose(all []candidate) ([]archiveLayer, error) {
	seen := make(map[string]bool)
	all = slices.DeleteFunc(all, func(c candidate) bool {
		again := seen[c.id]
		seen[c.id] = true
		return again
	})
	fitting := all
	if w.arch != "" && len(all) > 1 {
		fitting = slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.arch != w.arch })
	}
	if len(fitting) == 1 {
		if got := fitting[0].arch; w.arch != "" && got != "" && got != w.arch {
			w.log.Warn("image is for another architecture", "image", fitting[0].name, "architecture", got, "want", w.arch)
		}
		return fitting[0].layers()
	}
	var list []string
	for _, c := range all {
		list = append(list, c.name+" ("+c.arch+")")
	}
	switch {
	case len(all) == 0:
		return nil, errors.New("there is no image for Linux in it")
	case len(fitting) == 0:
		return nil, fmt.Errorf("there is no image for %s in it, only %s", w.arch, strings.Join(list, ", "))
	}
	return nil, fmt.Errorf("there are several images in it, %s; save one alone", strings.Join(list, ", "))
}

// dockerImage reads what "docker save" writes.
func (w *imageWanted) dockerImage(from blobs) ([]archiveLayer, error) {
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := readDocument(from, dockerManifest, nil, &images); err != nil {
		return nil, err
	}
	var all []candidate
	for _, image := range images {
		var config v1.ConfigFile
		if err := readDocument(from, image.Config, digestInName(image.Config), &config); err != nil {
			return nil, err
		}
		name := strings.Join(image.RepoTags, " ")
		if name == "" {
			name = image.Config
		}
		all = append(all, candidate{image.Config, name, config.Architecture, func() ([]archiveLayer, error) {
			if len(image.Layers) != len(config.RootFS.DiffIDs) {
				return nil, fmt.Errorf("%s: %d layers, but %s has %d digests", dockerManifest, len(image.Layers), image.Config, len(config.RootFS.DiffIDs))
			}
			layers := make([]archiveLayer, len(image.Layers))
			for i, file := range image.Layers {
				layers[i] = archiveLayer{
					name: file, image: true, diffID: config.RootFS.DiffIDs[i].Hex,
					open: func() (io.ReadCloser, error) { return from.open(file) },
				}
			}
			return layers, sha256Only(config.RootFS.DiffIDs)
		}})
	}
	return w.choose(all)
}

// ociImage reads an OCI layout.
func (w *imageWanted) ociImage(from blobs) ([]archiveLayer, error) {
	var index v1.IndexManifest
	if err := readDocument(from, ociIndex, nil, &index); err != nil {
		return nil, err
	}
	all, err := w.ociCandidates(from, &index, 0)
	if err != nil {
		return nil, err
	}
	return w.choose(all)
}

// maxIndexDepth bounds indexes of indexes; images have two levels.
const maxIndexDepth = 4

func (w *imageWanted) ociCandidates(from blobs, index *v1.IndexManifest, depth int) ([]candidate, error) {
	if depth == maxIndexDepth {
		return nil, fmt.Errorf("%s: more than %d levels of indexes", ociIndex, maxIndexDepth)
	}
	var all []candidate
	for _, d := range index.Manifests {
		if p := d.Platform; p != nil && p.OS != "" && p.OS != "linux" {
			continue // also attestations, whose platform is "unknown"
		}
		if d.MediaType == types.OCIImageIndex || d.MediaType == types.DockerManifestList {
			var inner v1.IndexManifest
			if err := readDocument(from, blobName(d.Digest), &d, &inner); err != nil {
				return nil, err
			}
			more, err := w.ociCandidates(from, &inner, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		c, err := ociCandidate(from, d)
		if errors.Is(err, fs.ErrNotExist) {
			// "docker save" of an image for several architectures lists
			// those that it doesn't have, too.
			w.log.Debug("image isn't in the archive", "digest", d.Digest.String())
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func ociCandidate(from blobs, d v1.Descriptor) (candidate, error) {
	var manifest v1.Manifest
	if err := readDocument(from, blobName(d.Digest), &d, &manifest); err != nil {
		return candidate{}, err
	}
	var config v1.ConfigFile
	if err := readDocument(from, blobName(manifest.Config.Digest), &manifest.Config, &config); err != nil {
		return candidate{}, err
	}
	name := d.Annotations["org.opencontainers.image.ref.name"]
	if name == "" {
		name = d.Digest.String()
	}
	return candidate{d.Digest.String(), name, config.Architecture, func() ([]archiveLayer, error) {
		if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
			return nil, fmt.Errorf("manifest %s: %d layers, but its config has %d digests", d.Digest, len(manifest.Layers), len(config.RootFS.DiffIDs))
		}
		layers := make([]archiveLayer, len(manifest.Layers))
		var digests []v1.Hash
		for i, blob := range manifest.Layers {
			digests = append(digests, blob.Digest)
			layers[i] = archiveLayer{
				name: blob.Digest.String(), image: true, diffID: config.RootFS.DiffIDs[i].Hex,
				blob: blob.Digest.Hex, size: blob.Size,
				open: func() (io.ReadCloser, error) { return from.open(blobName(blob.Digest)) },
			}
		}
		return layers, sha256Only(append(digests, config.RootFS.DiffIDs...))
	}}, nil
}

// digestInName returns what docker's name for a config says of it, in any of
// the forms "HEX.json", "sha256:HEX" and "blobs/sha256/HEX"; nil for others.
func digestInName(name string) *v1.Descriptor {
	base := strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), "sha256:")
	digest, err := v1.NewHash("sha256:" + base)
	if err != nil {
		return nil
	}
	return &v1.Descriptor{Digest: digest, Size: -1}
}

func blobName(d v1.Hash) string { return "blobs/" + d.Algorithm + "/" + d.Hex }

func sha256Only(digests []v1.Hash) error {
	for _, d := range digests {
		if d.Algorithm != "sha256" {
			return fmt.Errorf("digest %q: only sha256 can be checked", d.String())
		}
	}
	return nil
}

// readDocument decodes a JSON file of an image; d, unless nil, says which
// size and digest it must have.
func readDocument(from blobs, name string, d *v1.Descriptor, into any) error {
	r, err := from.open(name)
	if err != nil {
		return err
	}
	defer closeRead(r)
	b, err := io.ReadAll(io.LimitReader(r, maxDocument))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if d != nil {
		sum := sha256.Sum256(b)
		if d.Size >= 0 && d.Size != int64(len(b)) || d.Digest.Algorithm != "sha256" || d.Digest.Hex != hex.EncodeToString(sum[:]) {
			return fmt.Errorf("%s: damaged: its %d bytes have the digest sha256:%x", name, len(b), sum)
		}
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
