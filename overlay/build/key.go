package build

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// keyHash hashes the inputs of a build, each quoted on its line.
type keyHash struct{ hash.Hash }

func (h *keyHash) line(words ...string) { _, _ = fmt.Fprintf(h, "%q\n", words) }

// inputs adds files with their hashes.
func (h *keyHash) inputs(hashes map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(hashes)) {
		h.line("file", name, hashes[name])
	}
}

// hashOf returns the hash of what add puts in, in hexadecimal.
func hashOf(add func(*keyHash)) string {
	h := &keyHash{sha256.New()}
	add(h)
	return hex.EncodeToString(h.Sum(nil))
}

// key is the hash of all that decides what a package is built to. Of one that is
// built once, inputs are nil: where its folder comes from stands for them.
func key(r *overlay.Recipe, arch string, tools, inputs map[string]string, needs []*unit) string {
	return hashOf(func(h *keyHash) {
		h.line(outputVersion)
		h.line(r.Command...)
		h.line("path", r.Path)
		h.line(hashedEnv(r, arch)...)
		for _, name := range slices.Sorted(maps.Keys(tools)) {
			h.line("tool", name, tools[name])
		}
		for _, need := range needs {
			h.line("package", need.Name, need.hash)
		}
		if inputs == nil && r.Source != nil {
			h.line("source", fmt.Sprintf("%q", *r.Source))
		}
		h.inputs(inputs)
	})
}
