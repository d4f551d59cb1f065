package export

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// partLayer is the layer of one part of a project's stack: a compressed tar in
// a scratch file. It implements [partial.CompressedLayer].
type partLayer struct {
	PushedLayer
	packed Compression
	file   *os.File
	sum    TarSum // of the tar itself
	sent   atomic.Bool
	tell   func(n int64) // of bytes that are being sent
}

// Digest implements [partial.CompressedLayer].
func (l *partLayer) Digest() (v1.Hash, error) { return l.PushedLayer.Digest, nil }

// DiffID implements [partial.WithDiffID].
func (l *partLayer) DiffID() (v1.Hash, error) { return hashOf(l.sum.SHA256), nil }

// Size implements [partial.CompressedLayer].
func (l *partLayer) Size() (int64, error) { return l.PushedLayer.Size, nil }

// MediaType implements [partial.CompressedLayer].
func (l *partLayer) MediaType() (types.MediaType, error) {
	if l.packed == Zstd {
		return types.OCILayerZStd, nil
	}
	return types.OCILayer, nil
}

// Compressed implements [partial.CompressedLayer]. It is asked for by who has
// found that the registry hasn't the layer.
func (l *partLayer) Compressed() (io.ReadCloser, error) {
	l.sent.Store(true)
	return io.NopCloser(&toldReader{io.NewSectionReader(l.file, 0, l.PushedLayer.Size), l.tell}), nil
}

type toldReader struct {
	io.Reader
	tell func(n int64)
}

func (r *toldReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.tell(int64(n))
	return n, err
}

// partLayers are the layers of a tree, bottom to top.
type partLayers []*partLayer

func (ls partLayers) close() {
	for _, l := range ls {
		_ = l.file.Close() // it has no name
	}
}

// makeLayers makes a layer of each part of the tree's stack that adds
// something: what turns the merged tree of the parts below into the one with
// it. So a part's layer depends on nothing above it.
func makeLayers(ctx context.Context, top *overlay.Tree, scratch string, r *Request) (layers partLayers, err error) {
	defer func() {
		if err != nil {
			layers.close()
			layers = nil
		}
	}()
	var below treeNames
	defer func() {
		if below.tree != nil && below.tree != top {
			err = errors.Join(err, below.tree.Close())
		}
	}()
	parts := partsOf(top)
	for i, part := range parts {
		tree, warn := top, r.Log
		if i < len(parts)-1 {
			warn = slog.New(slog.DiscardHandler) // the top says it all
			if tree, err = overlay.Open(top.Project(), overlay.Options{ReadOnly: true, UpTo: part}); err != nil {
				return layers, err
			}
		}
		names, err := namesOf(ctx, tree, warn)
		if err == nil {
			var l *partLayer
			if l, err = makeLayer(ctx, below, names, part, scratch, r); l != nil {
				layers = append(layers, l)
			}
		}
		if below.tree != nil {
			err = errors.Join(err, below.tree.Close())
		}
		below = names
		if err != nil {
			return layers, err
		}
	}
	return layers, r.machines.report(r.Log, r.Strict)
}

// partsOf lists the parts that a tree has layers of, bottom to top.
func partsOf(t *overlay.Tree) []overlay.Part {
	var parts []overlay.Part
	for _, l := range t.Layers() {
		if !slices.Contains(parts, l.Part()) {
			parts = append(parts, l.Part())
		}
	}
	return parts
}

// makeLayer makes the layer between two trees; nil if they are the same.
func makeLayer(ctx context.Context, below, tree treeNames, part overlay.Part, scratch string, r *Request) (*partLayer, error) {
	r.Progress.Step("packing "+part.String(), 0)
	l := &partLayer{PushedLayer: PushedLayer{Part: part}, packed: Gzip} // which every reader takes
	err := l.pack(ctx, scratch, r, func(t *TarWriter) (int, error) {
		add := func(e *overlay.Entry) error {
			r.machines.watch(e)
			return t.Add(e)
		}
		d := &layerDiff{add: add, lower: below, upper: tree}
		err := d.run(ctx, r.Epoch)
		return d.entries, err
	})
	if err != nil {
		return nil, err
	}
	if l.Entries == 0 {
		return nil, l.file.Close()
	}
	return l, nil
}

// pack makes the layer of what write, which returns the number of entries, gives
// to the tar.
func (l *partLayer) pack(ctx context.Context, scratch string, r *Request, write func(*TarWriter) (int, error)) (err error) {
	if l.file, err = Scratch(scratch); err != nil {
		return err
	}
	l.tell = r.Progress.Add
	digest := sha256.New()
	counter := &countingWriter{w: io.MultiWriter(l.file, digest)}
	err = compressTo(counter, l.packed, func(w io.Writer) error {
		t := NewTarWriter(ctx, w, TarOptions{Log: r.Log, Progress: r.Progress.Add, Digest: true})
		entries, err := write(t)
		sum, closeErr := t.Close()
		if err == nil {
			err = closeErr
		}
		l.sum, l.Entries = sum, entries
		return err
	})
	if err != nil {
		return errors.Join(err, l.file.Close())
	}
	l.PushedLayer.Size = counter.n
	l.PushedLayer.Digest = hashOf([sha256.Size]byte(digest.Sum(nil)))
	return nil
}

// imageCore is an image of layers that are made. It implements
// [partial.CompressedImageCore].
type imageCore struct {
	layers           partLayers
	config, manifest []byte
}

// newImage makes an image of layers, with annotations in its manifest.
func newImage(layers partLayers, o ImageOptions, annotations map[string]string) (v1.Image, error) {
	var made []madeLayer
	var blobs []v1.Descriptor
	for _, l := range layers {
		made = append(made, madeLayer{l.sum.SHA256, "rootfs: " + l.Part.String()})
		d, err := partial.Descriptor(l)
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, *d)
	}
	config, err := o.configOf(made...)
	if err != nil {
		return nil, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Size: size, Digest: digest},
		Layers:        blobs,
		Annotations:   annotations,
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(&imageCore{layers, config, manifest})
}

// RawConfigFile implements [partial.ImageCore].
func (i *imageCore) RawConfigFile() ([]byte, error) { return i.config, nil }

// RawManifest implements [partial.CompressedImageCore].
func (i *imageCore) RawManifest() ([]byte, error) { return i.manifest, nil }

// MediaType implements [partial.ImageCore].
func (i *imageCore) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// LayerByDigest implements [partial.CompressedImageCore].
func (i *imageCore) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range i.layers {
		if l.PushedLayer.Digest == h {
			return l, nil
		}
	}
	return nil, errors.New("there is no layer " + h.String())
}
