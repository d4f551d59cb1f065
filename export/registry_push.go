package export

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// PushReport says what a registry has now.
type PushReport struct {
	Ref    string        `json:"ref"`    // with tag
	Digest string        `json:"digest"` // of the manifest
	Layers []PushedLayer `json:"layers"` // bottom to top
}

// PushedLayer is one layer of a pushed image.
type PushedLayer struct {
	Part    overlay.Part `json:"-"`
	Name    string       `json:"name"` // the part's
	Digest  v1.Hash      `json:"digest"`
	Size    int64        `json:"size"`    // compressed, in bytes
	Entries int          `json:"entries"` // whiteouts among them
	Sent    bool         `json:"sent"`    // it wasn't there already
}

// Push sends the tree to a registry as an OCI image, a layer for each part of
// the stack. Layers that the registry has are not sent again, so that a push
// that was ended goes on where it was; the tag is set last. Layers are made in
// the directory scratch. Of the request it takes what isn't about outputs.
func Push(ctx context.Context, t *overlay.Tree, ref, scratch string, r *Request) (*PushReport, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: give HOST/NAME:TAG", err)
	}
	q := r.complete(t)
	layers, err := makeLayers(ctx, t, scratch, &q)
	if err != nil {
		return nil, err
	}
	defer layers.close()
	image, err := newImage(layers, ImageOptions{Arch: q.Arch, Created: q.created()}, nil)
	if err != nil {
		return nil, err
	}
	q.Progress.Step("sending to "+tag.RegistryStr(), 0)
	if err := remote.Write(tag, image, append(registryOptions(), remote.WithContext(ctx))...); err != nil {
		return nil, registryError(tag, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	report := &PushReport{Ref: tag.Name(), Digest: digest.String()}
	for _, l := range layers {
		l.Name, l.Sent = l.Part.String(), l.sent.Load()
		report.Layers = append(report.Layers, l.PushedLayer)
	}
	return report, nil
}
