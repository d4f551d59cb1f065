package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/klauspost/compress/zstd"

	"github.com/DragonOS-Community/rootfs/overlay"
	"github.com/DragonOS-Community/rootfs/overlay/build"
)

// PackageCache keeps outputs of builds in a repository of a registry. Each is
// an image of one layer, tagged with its key, and its manifest's annotations
// tell the key again and the hash of the content. It implements [build.Cache].
type PackageCache struct {
	repo    name.Repository
	scratch string
	puller  *remote.Puller
	pusher  *remote.Pusher
}

var _ build.Cache = (*PackageCache)(nil)

// Annotations of a manifest in a cache of packages.
const (
	annotationKey     = "org.dragonos.rootfs.package.key"
	annotationContent = "org.dragonos.rootfs.package.content"
	annotationTitle   = "org.opencontainers.image.title" // OCI image specification, annotations.md
)

// How long a registry may take before it counts as failing: to tell whether it
// has a package, for which a build waits, and to begin any answer.
const (
	lookupLimit = 15 * time.Second
	answerLimit = 2 * time.Minute
)

// NewPackageCache returns the cache in the repository ref, which has no tag. It
// connects when it is first used. Layers are made in the directory scratch,
// which must exist then.
func NewPackageCache(ref, scratch string) (*PackageCache, error) {
	repo, err := name.NewRepository(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: give HOST/NAME, without a tag", err)
	}
	c := &PackageCache{repo: repo, scratch: scratch}
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerLimit
	options := append(registryOptions(), remote.WithTransport(t))
	c.puller, err = remote.NewPuller(options...)
	if err == nil {
		c.pusher, err = remote.NewPusher(options...)
	}
	return c, err
}

// Get implements [build.Cache]. What unpack reads to its end is as the manifest
// has it, by digest.
func (c *PackageCache) Get(ctx context.Context, key string, unpack func(io.Reader) error) (content string, err error) {
	tag := c.repo.Tag(key)
	d, err := c.lookup(ctx, tag)
	if refused := new(transport.Error); errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return "", fmt.Errorf("%s: %w", tag, fs.ErrNotExist)
	}
	if err != nil {
		return "", registryError(tag, err)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(d.Manifest))
	if err != nil {
		return "", fmt.Errorf("%s: %w", tag, err)
	}
	content = manifest.Annotations[annotationContent]
	if manifest.Annotations[annotationKey] != key || content == "" || len(manifest.Layers) != 1 {
		return "", fmt.Errorf("%s: is no package that rootfs has put there", tag)
	}
	layer, err := c.puller.Layer(ctx, c.repo.Digest(manifest.Layers[0].Digest.String()))
	if err != nil {
		return "", registryError(tag, err)
	}
	packed, err := layer.Compressed() // and checked
	if err != nil {
		return "", registryError(tag, err)
	}
	defer packed.Close() //nolint:errcheck // only read
	tar, err := zstd.NewReader(packed)
	if err != nil {
		return "", fmt.Errorf("%s: %w", tag, err)
	}
	defer tar.Close()
	if err := unpack(tar); err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, packed)
	return content, err
}

func (c *PackageCache) lookup(ctx context.Context, tag name.Tag) (*remote.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	return c.puller.Get(ctx, tag)
}

// Put implements [build.Cache].
func (c *PackageCache) Put(ctx context.Context, o build.Output, dir string) (err error) {
	l := &partLayer{PushedLayer: PushedLayer{Part: overlay.PartPackages}, packed: Zstd}
	if err := l.packDir(ctx, dir, c.scratch); err != nil {
		return fmt.Errorf("package %s: %w", o.Package, err)
	}
	defer partLayers{l}.close()
	image, err := newImage(partLayers{l}, ImageOptions{Arch: o.Arch}, map[string]string{
		annotationKey: o.Key, annotationContent: o.Content, annotationTitle: o.Package,
	})
	if err != nil {
		return err
	}
	tag := c.repo.Tag(o.Key)
	if err := c.pusher.Push(ctx, tag, image); err != nil {
		return registryError(tag, err)
	}
	return nil
}

// packDir makes the layer of what is in a directory of the host, with its modes
// and times, as root's.
func (l *partLayer) packDir(ctx context.Context, dir, scratch string) (err error) {
	project, err := overlay.Directories{Lower: []string{dir}, SquashToRoot: true}.Project()
	if err != nil {
		return err
	}
	tree, err := overlay.Open(project, overlay.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	r := &Request{Log: slog.New(slog.DiscardHandler), Progress: silence{}}
	return l.pack(ctx, scratch, r, func(t *TarWriter) (entries int, err error) {
		err = Walk(ctx, tree, nil, func(e *overlay.Entry) error {
			entries++
			return t.Add(e)
		})
		return entries, err
	})
}
