package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry gets images that a source names by a reference, as "ubuntu:24.04".
// What it yields is checked against the digests here.
type Registry interface {
	// Resolve returns the digest of the manifest of the image that the
	// reference names now, for an architecture as rootfs.toml has it. For "" it
	// takes the only image, or among several that for this machine.
	Resolve(ctx context.Context, ref, arch string) (v1.Hash, error)

	// Open opens a manifest or a blob of the reference's repository; which of
	// the two, the media type says.
	Open(ctx context.Context, ref string, d v1.Descriptor) (io.ReadCloser, error)
}

// IsImageReference tells whether a source that is no path of the host names an
// image in a registry. It must say which one, by tag or digest: otherwise each
// misspelt path would be one.
func IsImageReference(source string) bool {
	base := source[strings.LastIndexByte(source, '/')+1:]
	if strings.HasPrefix(source, "/") || strings.HasPrefix(source, ".") || !strings.Contains(base, ":") {
		return false
	}
	_, err := name.ParseReference(source)
	return err == nil
}

// unpackImage makes the image that ref names available as recorded layers, by
// the digest in the lock file, and returns their directories, bottom to top.
// What is in the cache is not asked for again.
func (p *Project) unpackImage(ctx context.Context, ref string, log *slog.Logger) ([]string, error) {
	digest, err := p.lockedDigest(ctx, ref)
	if err != nil {
		return nil, err
	}
	c := archiveCache{dir: p.cacheDir()}
	rec := &archiveRecord{Path: digest.String()}
	if err := c.recall(rec); err == nil {
		return c.layerDirs(rec.Layers)
	}
	if p.Registry == nil {
		return nil, fmt.Errorf("image %s: not in the cache, and there is no registry to ask", ref)
	}
	log.Info("fetching", "image", ref, "digest", digest.String())
	err = c.unpack(ctx, rec, func(string) (*openedArchive, error) {
		want := imageWanted{arch: goArch[p.Manifest.Arch], log: log}
		return want.registryImage(registryBlobs{ctx, p.Registry, ref, blobName(digest)}, digest)
	}, log)
	if err == nil {
		err = c.remember(rec)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return c.layerDirs(rec.Layers)
}

// registryImage reads the image whose manifest has the digest.
func (w *imageWanted) registryImage(from blobs, digest v1.Hash) (*openedArchive, error) {
	// Its size isn't known before; the digest is enough.
	c, err := ociCandidate(from, v1.Descriptor{Digest: digest, Size: -1})
	if err != nil {
		return nil, err
	}
	layers, err := w.choose([]candidate{c})
	return &openedArchive{layers: layers, closer: io.NopCloser(nil)}, err
}

// registryBlobs are those of an image in a registry.
type registryBlobs struct {
	ctx      context.Context
	registry Registry
	ref      string
	manifest string // its name among them
}

func (b registryBlobs) open(name string) (io.ReadCloser, error) {
	digest, err := v1.NewHash(strings.Replace(strings.TrimPrefix(name, "blobs/"), "/", ":", 1))
	if err != nil {
		return nil, err
	}
	d := v1.Descriptor{Digest: digest, MediaType: types.OCILayer}
	if name == b.manifest {
		d.MediaType = types.OCIManifestSchema1
	}
	return b.registry.Open(b.ctx, b.ref, d)
}

// lockedDigest returns the digest that the lock file has for ref. Where it has
// none, the registry is asked and the answer locked.
func (p *Project) lockedDigest(ctx context.Context, ref string) (v1.Hash, error) {
	lock, err := readLock(p.LockFile())
	if err != nil {
		return v1.Hash{}, err
	}
	if digest, ok := lock.find(ref, p.Manifest.Arch); ok {
		return digest, nil
	}
	return p.lockImage(ctx, lock, ref)
}

// BaseImage returns the digest of the base as it is locked; false where the base
// is no image of a registry.
func (p *Project) BaseImage(ctx context.Context) (digest v1.Hash, is bool, err error) {
	if !p.isImage(p.Manifest.Base.Source) {
		return v1.Hash{}, false, nil
	}
	digest, err = p.lockedDigest(ctx, p.Manifest.Base.Source)
	return digest, err == nil, err
}

func (p *Project) lockImage(ctx context.Context, lock *lockFile, ref string) (v1.Hash, error) {
	if p.Registry == nil {
		return v1.Hash{}, fmt.Errorf("image %s: not in %s, and there is no registry to ask", ref, p.LockFile())
	}
	digest, err := p.Registry.Resolve(ctx, ref, p.Manifest.Arch)
	if err == nil && digest.Algorithm != "sha256" {
		err = errors.New("only sha256 can be checked, not " + digest.String())
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("image %s: %w", ref, err)
	}
	lock.set(LockedImage{Source: ref, Arch: p.Manifest.Arch, Digest: digest.String()})
	return digest, lock.write(p.LockFile())
}

// LockImages asks the registry which images the manifest's references name
// now, and locks them. A mount or an export fetches what is new.
func (p *Project) LockImages(ctx context.Context) ([]LockedImage, error) {
	sources := []string{p.Manifest.Base.Source}
	for _, l := range p.Manifest.Layers {
		sources = append(sources, l.Source)
	}
	lock, err := readLock(p.LockFile())
	if err != nil {
		return nil, err
	}
	var images []LockedImage
	for _, source := range sources {
		if !p.isImage(source) {
			continue
		}
		digest, err := p.lockImage(ctx, lock, source)
		if err != nil {
			return nil, err
		}
		images = append(images, LockedImage{Source: source, Arch: p.Manifest.Arch, Digest: digest.String()})
	}
	return images, nil
}

// isImage tells whether a source of the manifest is in a registry.
func (p *Project) isImage(source string) bool {
	return !exists(p.path(source)) && IsImageReference(source)
}
