package export

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// WriteDocker writes an archive that docker load, podman load and skopeo's
// docker-archive take: manifest.json, the configuration, and the layer, as
// HASH/layer.tar (Docker image specification v1.2, "Combined Image JSON +
// Filesystem Changeset Format"). The layer is copied within the kernel if w is
// a file and c is Uncompressed.
//
// The format's tar is written here, as go-containerregistry's tarball package
// compresses a layer, reads it twice more and stamps nothing.
func WriteDocker(ctx context.Context, w io.Writer, c Compression, l Layer, opts ImageOptions) error {
	config, err := opts.config(l)
	if err != nil {
		return err
	}
	repository, tag, err := opts.tag()
	if err != nil {
		return err
	}
	configName := hashOf(sha256.Sum256(config)).Hex + ".json"
	layerName := hashOf(l.SHA256).Hex + "/layer.tar"
	manifest, err := json.Marshal([]dockerManifest{{
		Config:   configName,
		RepoTags: []string{repository + ":" + tag},
		Layers:   []string{layerName},
	}})
	if err != nil {
		return err
	}
	err = compressTo(w, c, func(w io.Writer) error {
		a := dockerArchive{w: w, mtime: overlay.Time{Sec: opts.created().Unix()}}
		a.bytes("manifest.json", manifest)
		a.bytes(configName, config)
		a.member(layerName, l.Size, func() error {
			return copyFile(ctx, w, l.File, l.Size, opts.Progress)
		})
		return a.close()
	})
	if err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	return nil
}

// dockerManifest is an element of manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerArchive writes a tar of read-only files. It remembers the first error.
type dockerArchive struct {
	w     io.Writer
	mtime overlay.Time
	err   error
}

func (a *dockerArchive) bytes(name string, data []byte) {
	a.member(name, int64(len(data)), func() error {
		_, err := a.w.Write(data)
		return err
	})
}

func (a *dockerArchive) member(name string, size int64, write func() error) {
	if a.err != nil {
		return
	}
	h := tarHeader{typ: typeFile, name: name, mode: 0o444, size: size, mtime: a.mtime}
	b, err := h.appendTo(nil)
	if err != nil {
		a.err = err
		return
	}
	if _, a.err = a.w.Write(b); a.err != nil {
		return
	}
	if a.err = write(); a.err != nil {
		return
	}
	_, a.err = a.w.Write(make([]byte, padding(size)))
}

func (a *dockerArchive) close() error {
	if a.err == nil {
		_, a.err = a.w.Write(make([]byte, 2*tarBlock))
	}
	return a.err
}
