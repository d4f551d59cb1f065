package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Package is one package of a project's user/apps.
type Package struct {
	Name string

	// Path is the host's: the folder of a recipe or an install tree, an
	// archive, or the link to a tree that something else built.
	Path string

	Recipe *Recipe // how to build it; nil where nothing is to be built
}

// Packages returns the named packages and those that they depend on, each
// after its own dependencies; all packages for the project's architecture
// when none is named. Their recipes are whole: each dependency exists and none
// leads back to where it came from.
func (p *Project) Packages(names ...string) ([]Package, error) {
	all, err := p.readPackages()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		for _, pk := range all {
			if pk.usable(p.Manifest.Arch) {
				names = append(names, pk.Name)
			}
		}
	}
	s := sorting{arch: p.Manifest.Arch, all: make(map[string]Package, len(all)), state: make(map[string]int)}
	for _, pk := range all {
		s.all[pk.Name] = pk
		s.names = append(s.names, pk.Name)
	}
	for _, name := range names {
		pk, ok := s.all[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: there is no package %q%s", p.AppsDir(), name, didYouMean(name, s.names))
		case !pk.usable(s.arch):
			return nil, fmt.Errorf("%s: package %q is not for %s", pk.Recipe.File, name, s.arch)
		}
		if err := s.visit(pk, nil); err != nil {
			return nil, err
		}
	}
	return s.sorted, nil
}

// AppsDir is the host folder that holds the packages.
func (p *Project) AppsDir() string { return p.path(p.Manifest.Apps.Path) }

// readPackages lists the packages in the order of their layers.
func (p *Project) readPackages() ([]Package, error) {
	if p.Manifest.checkout != nil {
		return p.checkoutPackages()
	}
	apps := p.AppsDir()
	found, err := packages(apps, p.Manifest.Apps.Order, p.Manifest.Apps.Exclude)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := make([]Package, len(found))
	var bad []error
	for i, pk := range found {
		all[i] = Package{Name: pk.name, Path: pk.path}
		if pk.kind == pkgRecipe {
			all[i].Recipe, err = ReadRecipe(filepath.Join(pk.path, RecipeName))
			bad = append(bad, err)
		}
	}
	return all, errors.Join(bad...)
}

func (pk *Package) usable(arch string) bool { return pk.Recipe == nil || pk.Recipe.For(arch) }

// sorting puts packages after those that they depend on.
type sorting struct {
	arch   string
	all    map[string]Package
	names  []string
	state  map[string]int // 1 while being visited, 2 when sorted
	sorted []Package
}

// visit sorts pk; path are the names that led to it.
func (s *sorting) visit(pk Package, path []string) error {
	path = append(path, pk.Name)
	switch s.state[pk.Name] {
	case 1:
		loop := path[slices.Index(path, pk.Name):]
		return fmt.Errorf("%s: packages depend on each other in a circle: %s", pk.Recipe.File, strings.Join(loop, " -> "))
	case 2:
		return nil
	}
	s.state[pk.Name] = 1
	if pk.Recipe != nil {
		for _, name := range pk.Recipe.Depends {
			dep, ok := s.all[name]
			switch {
			case !ok:
				return pk.Recipe.at(&valueError{name, "there is no such package to depend on" + didYouMean(name, s.names)})
			case !dep.usable(s.arch):
				return pk.Recipe.at(&valueError{name, "this package is not for " + s.arch})
			}
			if err := s.visit(dep, path); err != nil {
				return err
			}
		}
	}
	s.state[pk.Name] = 2
	s.sorted = append(s.sorted, pk)
	return nil
}

// at says where in the recipe an error is.
func (r *Recipe) at(problem error) error {
	text, err := os.ReadFile(r.File)
	if err != nil {
		return errors.Join(problem, err)
	}
	return locate(r.File, text, problem, nil)
}

// BuiltDir holds a link for each package that has been built by its recipe for
// the project's variant.
func (p *Project) BuiltDir() string {
	return filepath.Join(p.StateDir(), "packages", p.Variant())
}

// Variant is a name for what the same packages can be built to differently: the
// architecture, with the manifest where it isn't the project's usual one.
func (p *Project) Variant() string {
	usual := filepath.Join(p.Root, ManifestName)
	if p.Manifest.checkout != nil {
		usual = filepath.Join(p.Root, checkoutManifests, defaultCheckout+".toml")
	}
	if p.Manifest.File == "" || p.Manifest.File == usual {
		return p.Manifest.Arch
	}
	name, err := filepath.Rel(filepath.Dir(usual), p.Manifest.File)
	if err != nil {
		name = p.Manifest.File
	}
	return p.Manifest.Arch + "-" + url.PathEscape(strings.TrimSuffix(name, ".toml"))
}

// shownPackages lists the packages that layers are made of, in their order.
func (p *Project) shownPackages() ([]pkg, error) {
	if p.Manifest.checkout != nil {
		return p.checkoutShown()
	}
	apps := p.AppsDir()
	if !isDir(apps) {
		return nil, nil
	}
	return packages(apps, p.Manifest.Apps.Order, p.Manifest.Apps.Exclude)
}

// notBuiltError is a package that has a recipe, but no output yet.
type notBuiltError struct{ file, name string }

func (e *notBuiltError) Error() string {
	return fmt.Sprintf("%s: package %q is not built: run rootfs build", e.file, e.name)
}

// built returns the link to the output of a package that has a recipe; "" when
// the package is for other architectures only.
func (p *Project) built(pk pkg) (string, error) {
	link := filepath.Join(p.BuiltDir(), pk.name)
	if isDir(link) {
		return link, nil
	}
	if p.Manifest.checkout != nil {
		return "", &notBuiltError{pk.path, pk.name}
	}
	recipe, err := ReadRecipe(filepath.Join(pk.path, RecipeName))
	if err != nil || !recipe.For(p.Manifest.Arch) {
		return "", err
	}
	return "", &notBuiltError{recipe.File, pk.name}
}
