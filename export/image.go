package export

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Layer is a finished layer tar: what a [TarWriter] with a digest wrote to a
// file, from its beginning. It becomes the one layer of container images.
type Layer struct {
	File *os.File
	TarSum
}

// ImageOptions describes a container image of one layer.
type ImageOptions struct {
	// Arch is the machine's name in a project: x86_64, aarch64, riscv64 or
	// loongarch64.
	Arch string

	// Tag is the image's name and tag; "" is rootfs:latest.
	Tag string

	// Created is the time that the image states, 1970 if zero.
	Created time.Time

	// Progress, if not nil, is called with the bytes of the layer that were
	// copied since its last call; the sum is the layer's size.
	Progress func(n int64)
}

// imageArchs maps machine names, as in uname(2), to those of Go, which images
// use (OCI image configuration, "architecture").
var imageArchs = map[string]string{
	"x86_64":      "amd64",
	"aarch64":     "arm64",
	"riscv64":     "riscv64",
	"loongarch64": "loong64",
}

// tag returns the image's name and its tag.
func (o ImageOptions) tag() (repository, tag string, err error) {
	s := cmp.Or(o.Tag, "rootfs:latest")
	m := reference().FindStringSubmatch(s)
	if m == nil {
		return "", "", fmt.Errorf("image tag %q is not NAME or NAME:TAG in lower case", s)
	}
	return m[1], cmp.Or(m[2], "latest"), nil
}

// reference matches an image's name and its tag (distribution/reference,
// "Grammar"), without a digest.
var reference = sync.OnceValue(func() *regexp.Regexp {
	const component = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	const host = `[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/`
	return regexp.MustCompile(`^((?:` + host + `)?` + component + `(?:/` + component + `)*)(?::(\w[\w.-]{0,127}))?$`)
})

// config returns the image's configuration, which docker archives and OCI
// layouts share (OCI image specification, config.md).
func (o ImageOptions) config(l Layer) ([]byte, error) {
	return o.configOf(madeLayer{l.SHA256, "rootfs export"})
}

// madeLayer is what a configuration says of a layer.
type madeLayer struct {
	sum [sha256.Size]byte // of the tar
	by  string            // who made it
}

func (o ImageOptions) configOf(layers ...madeLayer) ([]byte, error) {
	arch, ok := imageArchs[o.Arch]
	if !ok {
		return nil, fmt.Errorf("image architecture %q is unknown: x86_64, aarch64, riscv64 and loongarch64 are known", o.Arch)
	}
	created := v1.Time{Time: o.created()}
	var ids []v1.Hash
	var history []v1.History
	for _, l := range layers {
		ids = append(ids, hashOf(l.sum))
		history = append(history, v1.History{Created: created, CreatedBy: l.by})
	}
	return json.Marshal(v1.ConfigFile{
		Architecture: arch,
		OS:           "linux",
		Created:      created,
		Config:       v1.Config{Cmd: []string{"/bin/sh"}},
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: ids},
		History:      history,
	})
}

func (o ImageOptions) created() time.Time {
	if o.Created.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return o.Created.UTC()
}

func hashOf(sum [sha256.Size]byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}
