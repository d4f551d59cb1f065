package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Project is a folder with packages, configuration and a manifest.
type Project struct {
	Root     string // absolute, on the host
	Manifest *Manifest

	// Registry has the images that the manifest refers to; nil for none but
	// those in the cache.
	Registry Registry

	// Incomplete leaves packages out that aren't built, with a warning.
	Incomplete bool

	partly      bool         // packages that aren't built yet are left out
	directories *Directories // in place of what the folder holds; nil for a folder
	state       *os.File     // StateDir, when it is open
}

// stateName is the folder in a project that is the program's own.
const stateName = ".rootfs"

// ErrNoProject is what [Find] says of a folder that is in none.
var ErrNoProject = errors.New("no project here or above")

// Find returns the project that holds dir: dir or the nearest folder above it
// with a rootfs.toml, user/apps or user/sysconfig. manifest names another file
// than rootfs.toml, "" for that. With the error of a manifest comes a project
// that has a root and a state directory, and nothing else.
func Find(dir, manifest string) (*Project, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(start); err != nil {
		return nil, err
	}
	root := start
	for !isProject(root) {
		up := filepath.Dir(root)
		if up == root {
			if manifest == "" {
				return nil, fmt.Errorf("%s: %w: make a %s, user/apps or user/sysconfig, or name the folder with -C", start, ErrNoProject, ManifestName)
			}
			root = start
			break
		}
		root = up
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	p := &Project{Root: root, Manifest: defaultManifest()}
	if manifest == "" {
		manifest = filepath.Join(root, ManifestName)
		if _, err := os.Lstat(manifest); errors.Is(err, os.ErrNotExist) {
			if !isCheckout(root) {
				return p, nil
			}
			manifest = checkoutManifest(root)
		}
	}
	if manifest, err = filepath.Abs(manifest); err != nil { // a daemon changes its directory
		return nil, err
	}
	// As root, so that it is known for one of its own.
	if dir, err := filepath.EvalSymlinks(filepath.Dir(manifest)); err == nil {
		manifest = filepath.Join(dir, filepath.Base(manifest))
	}
	p.Manifest, err = readManifestOf(root, manifest)
	return p, err
}

// reread reads the project's manifest again.
func (p *Project) reread() (*Project, error) {
	if p.directories != nil {
		return p, nil
	}
	var next *Project
	var err error
	if p.Manifest.File == "" {
		next, err = Find(p.Root, "")
	} else {
		var m *Manifest
		m, err = readManifestOf(p.Root, p.Manifest.File)
		if errors.Is(err, os.ErrNotExist) {
			m, err = defaultManifest(), nil
		}
		next = &Project{Root: p.Root, Manifest: m}
	}
	if next != nil {
		next.Registry, next.Incomplete = p.Registry, p.Incomplete
	}
	return next, err
}

func isProject(dir string) bool {
	for _, sign := range []string{ManifestName, "user/apps", "user/sysconfig", checkoutManifests} {
		if _, err := os.Stat(filepath.Join(dir, sign)); err == nil {
			return true
		}
	}
	return false
}

// StateDir is the folder that holds edits, locks and logs; "" for directories
// without an upper one.
func (p *Project) StateDir() string {
	switch d := p.directories; {
	case d == nil:
		return filepath.Join(p.Root, stateName)
	case d.Upper == "":
		return ""
	default:
		return filepath.Join(d.Work, "rootfs")
	}
}

// StateFile returns a path of a file in StateDir, for this process.
func (p *Project) StateFile(name string) string {
	if p.state != nil {
		return procPath(int(p.state.Fd()), name)
	}
	return filepath.Join(p.StateDir(), name)
}

// MakeStateDir makes the state folder, which git then ignores.
func (p *Project) MakeStateDir() error {
	if err := os.MkdirAll(p.StateDir(), 0o755); err != nil {
		return err
	}
	ignore := filepath.Join(p.StateDir(), ".gitignore")
	if _, err := os.Lstat(ignore); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(ignore, []byte("*\n"), 0o644)
}

// LayerDirs are the host folders that layers are made from. A mount point or
// an output among them would change what it shows.
func (p *Project) LayerDirs() []string {
	if d := p.directories; d != nil {
		return slices.DeleteFunc(append(slices.Clone(d.Lower), d.Upper), func(dir string) bool { return dir == "" })
	}
	m := p.Manifest
	dirs := []string{p.path(m.Apps.Path), p.path(m.Sysconfig.Path)}
	if m.Base.Source != "" {
		dirs = append(dirs, p.path(m.Base.Source))
	}
	for _, l := range m.Layers {
		dirs = append(dirs, p.path(l.Source))
	}
	return dirs
}

// path makes a path of the manifest, relative to the project, absolute.
func (p *Project) path(rel string) string {
	if filepath.IsAbs(rel) {
		return filepath.Clean(rel)
	}
	return filepath.Join(p.Root, rel)
}

// cacheDir is where unpacked archives are, shared by a person's projects.
func (p *Project) cacheDir() string {
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "rootfs")
	}
	return filepath.Join(p.StateDir(), "cache")
}

// layers lists the read-only layers, bottom to top.
func (p *Project) layers(ctx context.Context, log *slog.Logger) ([]*Layer, error) {
	if p.directories != nil {
		return p.directories.layers()
	}
	m := p.Manifest
	var all []*Layer
	if m.checkout != nil {
		dirs, err := p.checkoutBase()
		if err != nil {
			return nil, err
		}
		all = append(all, dirs)
	}
	if m.Base.Source != "" {
		base, err := p.source(ctx, "base", m.Base.Source, log)
		if err != nil {
			return nil, m.checkout.adviseBase(err)
		}
		for _, l := range base {
			l.base = true
		}
		all = append(all, base...)
	}
	pkgs, err := p.packageLayers(ctx, log)
	if err != nil {
		return nil, err
	}
	all = append(all, pkgs...)
	if dir := p.path(m.Sysconfig.Path); isDir(dir) {
		own, err := p.plainLayer(m.Sysconfig.Path, dir)
		if err != nil {
			return nil, err
		}
		own[0].decides = true
		all = append(all, own...)
	}
	for _, l := range m.Layers {
		more, err := p.source(ctx, l.Name, l.Source, log)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	own, err := p.manifestLayer()
	if err != nil {
		return nil, err
	}
	if own != nil {
		all = append(all, own)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: nothing to show: put packages into %s or configuration into %s",
			p.Root, m.Apps.Path, m.Sysconfig.Path)
	}
	return all, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// packageLayers lists the packages of user/apps.
func (p *Project) packageLayers(ctx context.Context, log *slog.Logger) ([]*Layer, error) {
	m := p.Manifest
	pkgs, err := p.shownPackages()
	if err != nil {
		return nil, err
	}
	var all []*Layer
	var left []string
	for _, pk := range pkgs {
		source := pk.path
		if pk.kind == pkgRecipe {
			source, err = p.built(pk)
			if source == "" && (err == nil || p.partly) {
				continue
			}
			if unbuilt := new(notBuiltError); p.Incomplete && errors.As(err, &unbuilt) {
				left = append(left, pk.name)
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		name := m.Apps.Path + "/" + pk.name
		var layers []*Layer
		if pk.real != "" {
			layers, err = p.plainLayer(name, pk.real)
		} else {
			layers, err = p.source(ctx, name, source, log)
		}
		if err != nil {
			return nil, err
		}
		for _, l := range layers {
			l.pkg = true
		}
		all = append(all, layers...)
	}
	if slices.Sort(left); len(left) > 0 {
		log.Warn("left out, since they aren't built: " + strings.Join(left, ", "))
	}
	return all, nil
}

// source makes the layers of a directory, an archive or an image in a
// registry. The path itself may be a link, which the project's owner made;
// nothing in it is followed.
func (p *Project) source(ctx context.Context, name, source string, log *slog.Logger) ([]*Layer, error) {
	if p.isImage(source) {
		dirs, err := p.unpackImage(ctx, source, log)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
		return unpackedLayers(name, dirs)
	}
	path, err := filepath.EvalSymlinks(p.path(source))
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", name, err)
	}
	if isDir(path) && !isOCILayout(path) || p.holdsState(path) {
		return p.plainLayer(name, path)
	}
	dirs, err := unpackArchive(ctx, path, p.cacheDir(), p.Manifest.Arch, log)
	if err != nil {
		return nil, err
	}
	return unpackedLayers(name, dirs)
}

// plainLayer makes the layer of a directory, whose path goes through no link.
func (p *Project) plainLayer(name, dir string) ([]*Layer, error) {
	if p.holdsState(dir) {
		return nil, fmt.Errorf("layer %s: %s holds this project's own state: name a folder beside the project's or below it", name, dir)
	}
	return []*Layer{{Name: name, Dir: dir}}, nil
}

// unpackedLayers makes layers of directories in the cache, bottom to top.
func unpackedLayers(name string, dirs []string) ([]*Layer, error) {
	layers := make([]*Layer, len(dirs))
	for i, dir := range dirs {
		implicit, err := implicitDirs(dir)
		if err != nil {
			return nil, err
		}
		layers[i] = &Layer{Name: name, Dir: dir, recorded: true, implicit: implicit}
	}
	return layers, nil
}

// holdsState tells whether the folder contains the project's state, which
// would show itself.
func (p *Project) holdsState(dir string) bool {
	rel, err := filepath.Rel(dir, p.StateDir())
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func isOCILayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil
}
