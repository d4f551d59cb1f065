package export

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Registry has images for [overlay.Project], and takes what [Push] sends: any
// registry of the OCI distribution specification. Credentials are those that
// docker and podman know (~/.docker/config.json with its helpers,
// $REGISTRY_AUTH_FILE). Plain HTTP is spoken with hosts of this machine, and with
// those of private networks (RFC 1918) that speak no HTTPS.
type Registry struct {
	puller func() (*remote.Puller, error)
}

var _ overlay.Registry = (*Registry)(nil)

// NewRegistry returns a registry that connects when it is first used.
func NewRegistry() *Registry {
	return &Registry{puller: sync.OnceValues(func() (*remote.Puller, error) {
		return remote.NewPuller(registryOptions()...)
	})}
}

func registryOptions() []remote.Option {
	return []remote.Option{
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("rootfs"),
	}
}

// Resolve implements [overlay.Registry].
func (r *Registry) Resolve(ctx context.Context, ref, arch string) (v1.Hash, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return v1.Hash{}, err
	}
	puller, err := r.puller()
	if err != nil {
		return v1.Hash{}, err
	}
	d, err := puller.Get(ctx, parsed)
	if err != nil {
		return v1.Hash{}, registryError(parsed, err)
	}
	if !d.MediaType.IsIndex() {
		return d.Digest, nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(d.Manifest))
	if err != nil {
		return v1.Hash{}, err
	}
	return chooseImage(index, imageArchs[arch])
}

// chooseImage returns the image for an architecture as images have it; for "",
// the only one, or that for this machine.
func chooseImage(index *v1.IndexManifest, arch string) (v1.Hash, error) {
	if all := index.Manifests; len(all) == 1 && all[0].Platform == nil {
		return all[0].Digest, nil // its configuration will say
	}
	images := slices.DeleteFunc(slices.Clone(index.Manifests), func(d v1.Descriptor) bool {
		return d.Platform == nil || d.Platform.OS == "unknown" // attestations
	})
	if arch == "" && len(images) == 1 {
		return images[0].Digest, nil
	}
	want := v1.Platform{OS: "linux", Architecture: cmp.Or(arch, runtime.GOARCH)}
	var have []string
	for _, image := range images {
		if image.Platform.Satisfies(want) {
			return image.Digest, nil
		}
		have = append(have, image.Platform.String())
	}
	return v1.Hash{}, fmt.Errorf("there is no image for %s in it, only %q", want.String(), have)
}

// Open implements [overlay.Registry].
func (r *Registry) Open(ctx context.Context, ref string, d v1.Descriptor) (io.ReadCloser, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	puller, err := r.puller()
	if err != nil {
		return nil, err
	}
	digest := parsed.Context().Digest(d.Digest.String())
	if d.MediaType.IsImage() {
		got, err := puller.Get(ctx, digest)
		if err != nil {
			return nil, registryError(parsed, err)
		}
		return io.NopCloser(bytes.NewReader(got.Manifest)), nil
	}
	layer, err := puller.Layer(ctx, digest)
	if err != nil {
		return nil, registryError(parsed, err)
	}
	content, err := layer.Compressed()
	if err != nil {
		return nil, registryError(parsed, err)
	}
	return content, nil
}

// registryError adds to an error what its reader can do about it.
func registryError(ref name.Reference, err error) error {
	refused := new(transport.Error)
	if errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden) {
		return fmt.Errorf("%w; log in with: docker login %s", err, ref.Context().RegistryStr())
	}
	return err
}
