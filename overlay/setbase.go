package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/pelletier/go-toml/v2"
)

// SetBase makes an image the project's base, in a manifest that may be new, and
// returns the project as it is then. A base that is there already stays:
// another one is an error, as is an image that the registry hasn't.
func (p *Project) SetBase(ctx context.Context, source string) (*Project, error) {
	file := p.Manifest.File
	if file == "" {
		file = filepath.Join(p.Root, ManifestName)
	}
	switch old := p.Manifest.Base.Source; old {
	case source:
		return p, nil
	case "":
	default:
		return nil, fmt.Errorf("%s: the base is %q: to have %q in its place, write that there", file, old, source)
	}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var tables map[string]any
	if err := toml.Unmarshal(text, &tables); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if _, ok := tables["base"]; ok {
		return nil, fmt.Errorf("%s: [base] names no source: write there: source = %q", file, source)
	}
	digest, err := p.Registry.Resolve(ctx, source, p.Manifest.Arch)
	if err == nil && p.Manifest.Arch == "" {
		text, err = p.archLine(ctx, source, digest)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", source, err)
	}
	if len(text) > 0 {
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "[base]\nsource = %q\n", source)
	if err := writeFileAtomically(file, text); err != nil {
		return nil, err
	}
	next := &Project{Root: p.Root, Registry: p.Registry}
	next.Manifest, err = readManifest(file)
	return next, err
}

// archLine is the manifest's line for the architecture that an image is for.
func (p *Project) archLine(ctx context.Context, ref string, digest v1.Hash) ([]byte, error) {
	from := registryBlobs{ctx, p.Registry, ref, blobName(digest)}
	image, err := ociCandidate(from, v1.Descriptor{Digest: digest, Size: -1})
	if err != nil {
		return nil, err
	}
	for arch, name := range goArch {
		if name == image.arch {
			return fmt.Appendf(nil, "arch = %q\n", arch), nil
		}
	}
	return nil, fmt.Errorf("it is for %q, and a root filesystem can be for %s", image.arch, strings.Join(archs, ", "))
}

// New returns the project that dir becomes with its first file. For which
// architecture it is, "" until then, the base that is set will say.
func New(dir string) (*Project, error) {
	root, err := filepath.Abs(dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	m := defaultManifest()
	m.Arch = ""
	return &Project{Root: root, Manifest: m}, err
}
