package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	if _, err := p.Registry.Resolve(ctx, source, p.Manifest.Arch); err != nil {
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

// New returns the project that dir becomes with its first file.
func New(dir string) (*Project, error) {
	root, err := filepath.Abs(dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	return &Project{Root: root, Manifest: defaultManifest()}, err
}
