package export

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// WriteOCI writes an OCI image layout with one image to the directory dir,
// which must be empty (OCI image specification, image-layout.md). The layer is
// compressed by gzip, as every reader takes that. Every file is synced.
func WriteOCI(ctx context.Context, dir string, l Layer, opts ImageOptions) error {
	if err := writeOCI(ctx, dir, l, opts); err != nil {
		return fmt.Errorf("OCI layout: %w", err)
	}
	return nil
}

func writeOCI(ctx context.Context, dir string, l Layer, opts ImageOptions) error {
	config, err := opts.config(l)
	if err != nil {
		return err
	}
	_, tag, err := opts.tag()
	if err != nil {
		return err
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o777); err != nil {
		return err
	}
	layer, err := writeBlob(blobs, types.OCILayer, func(w io.Writer) error {
		return compressTo(w, Gzip, func(w io.Writer) error {
			return copyFile(ctx, w, l.File, l.Size, opts.Progress)
		})
	})
	if err != nil {
		return err
	}
	configDesc, err := writeBlob(blobs, types.OCIConfigJSON, writesBytes(config))
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        configDesc,
		Layers:        []v1.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifestDesc, err := writeBlob(blobs, types.OCIManifestSchema1, writesBytes(manifest))
	if err != nil {
		return err
	}
	manifestDesc.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
	manifestDesc.Platform = &v1.Platform{OS: "linux", Architecture: imageArchs[opts.Arch]}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests:     []v1.Descriptor{manifestDesc},
	})
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, ociIndexFile), writesBytes(index)); err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, ociLayoutFile), writesBytes([]byte(`{"imageLayoutVersion":"1.0.0"}`)))
}

const (
	ociLayoutFile = "oci-layout" // marks a directory as an OCI layout
	ociIndexFile  = "index.json" // lists its images
)

// MayReplaceOCI is for [CreateOutputDir]: it returns nil if the directory is
// empty or an OCI layout of one image, with nothing else in it.
func MayReplaceOCI(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, ociLayoutFile))
	if err != nil && len(names) > 0 {
		return fmt.Errorf("output %s is a directory but not an OCI layout; remove it or choose another name", dir)
	}
	for _, n := range names {
		switch n.Name() {
		case ociLayoutFile, ociIndexFile, "blobs":
		default:
			return fmt.Errorf("output %s is an OCI layout with something else in it: move %s away or choose another name", dir, strconv.Quote(n.Name()))
		}
	}
	// Other programs add images to a layout. What can't be read holds none.
	var index v1.IndexManifest
	if b, err := os.ReadFile(filepath.Join(dir, ociIndexFile)); err == nil && json.Unmarshal(b, &index) == nil && len(index.Manifests) > 1 {
		return fmt.Errorf("output %s is an OCI layout that has %d images, all of which would be replaced; remove it or choose another name", dir, len(index.Manifests))
	}
	return nil
}

func writesBytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// writeBlob writes a file that is named by its digest, and describes it.
func writeBlob(dir string, media types.MediaType, write func(io.Writer) error) (v1.Descriptor, error) {
	temp := filepath.Join(dir, "unnamed")
	sum, size := sha256.New(), int64(0)
	err := writeSynced(temp, func(w io.Writer) error {
		counter := &countingWriter{w: io.MultiWriter(w, sum)}
		err := write(counter)
		size = counter.n
		return err
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	digest := hashOf([sha256.Size]byte(sum.Sum(nil)))
	if err := os.Rename(temp, filepath.Join(dir, digest.Hex)); err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: media, Size: size, Digest: digest}, nil
}

// writeSynced creates a file and makes its content durable.
func writeSynced(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
