package overlay

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What the projects of a person use of the cache is written down there, so that
// the rest can go:
//
//	projects/HEX.KIND  useRecord; HEX is of the project's folder and manifest
//
// A project that is gone, or its manifest, uses nothing.

// Kinds of what is used.
const (
	usedLayers  = "layers"  // directories in the cache, by path in it
	usedFetches = "fetches" // names of addresses, as FetchName has them
)

type useRecord struct {
	Root     string   `json:"root"`
	Manifest string   `json:"manifest,omitempty"` // "" when the project has none
	Uses     []string `json:"uses"`               // sorted
}

// noteUse writes down what the project uses, in place of what it used. Where the
// cache can't be written to, nothing in it will go either.
func (p *Project) noteUse(kind string, uses []string) {
	rec := useRecord{Root: p.Root, Manifest: p.Manifest.File, Uses: slices.Compact(slices.Sorted(slices.Values(uses)))}
	key := sha256.Sum256(fmt.Appendf(nil, "%q %q", rec.Root, rec.Manifest))
	file := filepath.Join(p.cacheDir(), "projects", fmt.Sprintf("%x.%s", key, kind))
	text, err := json.Marshal(rec)
	if err != nil {
		return
	}
	old, err := os.ReadFile(file)
	if string(old) == string(text) || errors.Is(err, fs.ErrNotExist) && len(uses) == 0 {
		return
	}
	if os.MkdirAll(filepath.Dir(file), 0o755) == nil {
		_ = writeFileAtomically(file, text)
	}
}

// noteLayers writes down which of the layers are in the cache.
func (p *Project) noteLayers(layers []*Layer) {
	var uses []string
	for _, l := range layers {
		if rel, ok := strings.CutPrefix(l.Dir, p.cacheDir()+"/"); ok {
			uses = append(uses, rel)
		}
	}
	p.noteUse(usedLayers, uses)
}

// NoteFetches writes down the addresses of what the project fetches.
func (p *Project) NoteFetches(addresses []string) {
	names := make([]string, len(addresses))
	for i, address := range addresses {
		names[i] = FetchName(address)
	}
	p.noteUse(usedFetches, names)
}

// FetchName is the name that the cache has for an address.
func FetchName(address string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(address))) }

// uses reads what projects use of a kind. Records of those that are gone are
// left out, and removed unless dry.
func (p *Project) uses(kind string, dry bool) (map[string]bool, error) {
	dir := filepath.Join(p.cacheDir(), "projects")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	used := make(map[string]bool)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != "."+kind {
			continue
		}
		file := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var rec useRecord
		if json.Unmarshal(text, &rec) == nil && isDir(rec.Root) && (rec.Manifest == "" || exists(rec.Manifest)) {
			for _, name := range rec.Uses {
				used[name] = true
			}
		} else if !dry {
			if err := os.Remove(file); err != nil {
				return nil, err
			}
		}
	}
	return used, nil
}
