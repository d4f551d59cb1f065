package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// pkgKind is the form that a package has in user/apps.
type pkgKind int

const (
	pkgTree    pkgKind = iota + 1 // a folder that holds root directories
	pkgResult                     // a folder with a link to a built tree
	pkgArchive                    // a rootfs tar, compressed or not
	pkgRecipe                     // a folder with instructions to build it
)

// pkg is one package of user/apps.
type pkg struct {
	name string // of the folder, or of the archive without its suffix

	// path is the host's: the folder of a tree or a recipe, the archive, or
	// the link result itself (not where it points, which a rebuild changes).
	path string
	kind pkgKind

	// real is path without links, where that is known to be an install tree; else "".
	real string
}

// resultLink is the name of a link to what something else has built.
const resultLink = "result"

// archiveSuffixes are the names that make a file in user/apps a package.
var archiveSuffixes = []string{".tar", ".tar.gz", ".tar.xz", ".tar.zst"}

// companions match files that people keep beside packages. Any other file is
// an error: a forgotten "busybox.zip" must not be a silent nothing.
var companions = []string{
	"README*", "LICENSE*", "COPYING*", "*.md", "*.txt", "*.nix", "*.lock", "*.mk",
	"Makefile", "Cargo.toml", "rust-toolchain.toml",
}

// rootNames are what a root directory holds: the names of the Filesystem
// Hierarchy Standard 3.0, §3, of what distributions add, and the two files
// that an initial program is started by (busybox installs linuxrc).
var rootNames = []string{
	"bin", "boot", "dev", "etc", "home", "init", "lib", "lib32", "lib64", "libx32",
	"linuxrc", "lost+found", "media", "mnt", "nix", "opt", "proc", "root", "run",
	"sbin", "srv", "sys", "tmp", "usr", "var",
}

// buildFiles tell source code from an install tree.
var buildFiles = []string{
	"Makefile", "makefile", "GNUmakefile", "CMakeLists.txt", "Cargo.toml", "go.mod",
	"configure", "configure.ac", "meson.build", "build.sh",
}

// packages finds the packages of appsDir: those named in order first, then
// the others sorted by name. A package whose name matches a pattern of exclude
// (as [path.Match] has it; "NAME/*" means all of NAME) is left out, whatever
// its form. Hidden names are no packages.
//
// The error has a line for each name that is in none of the forms and says
// which it could be; it is [fs.ErrNotExist] when there is no appsDir.
func packages(appsDir string, order, exclude []string) ([]pkg, error) {
	entries, err := os.ReadDir(appsDir)
	if err != nil {
		return nil, err
	}
	for _, pattern := range exclude {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("apps.exclude: pattern %q: %w", pattern, err)
		}
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return noPackage(exclude, e.Name()) })
	real, err := filepath.EvalSymlinks(appsDir)
	if err != nil {
		return nil, err
	}
	found := make([]pkg, len(entries))
	bad := make([]error, len(entries))
	inParallel(len(entries), func(i int) { found[i], bad[i] = packageAt(appsDir, real, entries[i]) })
	found = slices.DeleteFunc(found, func(p pkg) bool { return p.kind == 0 })
	slices.SortStableFunc(found, func(a, b pkg) int { return cmp.Compare(a.name, b.name) })
	for i := 1; i < len(found); i++ {
		if found[i-1].name == found[i].name {
			bad = append(bad, fmt.Errorf("%s and %s are both package %q: keep one of them",
				found[i-1].path, found[i].path, found[i].name))
		}
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	return inOrder(found, order, exclude, appsDir)
}

// inOrder moves the packages that order names to the front.
func inOrder(found []pkg, order, exclude []string, appsDir string) ([]pkg, error) {
	rank := make(map[string]int, len(order))
	for i, name := range order {
		if _, twice := rank[name]; twice {
			return nil, fmt.Errorf("apps.order: %q is named twice", name)
		}
		rank[name] = i
		known := slices.ContainsFunc(found, func(p pkg) bool { return p.name == name })
		if !known && !matchesAny(exclude, name) {
			return nil, fmt.Errorf("apps.order: there is no package %q in %s", name, appsDir)
		}
	}
	position := func(p pkg) int {
		if i, ok := rank[p.name]; ok {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(found, func(a, b pkg) int { return cmp.Compare(position(a), position(b)) })
	return found, nil
}

// noPackage tells whether a name in the packages' folder is hidden or excluded.
func noPackage(exclude []string, file string) bool {
	name, _ := cutArchiveSuffix(file)
	return strings.HasPrefix(name, ".") || matchesAny(exclude, name) || matchesAny(exclude, file)
}

func cutArchiveSuffix(file string) (name string, ok bool) {
	for _, suffix := range archiveSuffixes {
		if name, ok := strings.CutSuffix(file, suffix); ok && name != "" {
			return name, true
		}
	}
	return file, false
}

// matchesAny tells whether name matches one of patterns, which are valid.
func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		pattern = strings.TrimRight(strings.TrimSuffix(pattern, "/*"), "/")
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}

// packageAt recognises the form of an entry of appsDir, which is real without
// links. The kind is 0 for a file
// that is no package and is known not to be one.
func packageAt(appsDir, real string, entry fs.DirEntry) (pkg, error) {
	file := filepath.Join(appsDir, entry.Name())
	if entry.IsDir() {
		p, err := packageDir(file, entry.Name())
		if p.kind == pkgTree {
			p.real = filepath.Join(real, entry.Name())
		}
		return p, err
	}
	name, isArchive := cutArchiveSuffix(entry.Name())
	info, err := os.Stat(file)
	if err != nil {
		return pkg{}, fmt.Errorf("package %q: %w", name, err)
	}
	switch {
	case info.IsDir():
		return packageDir(file, entry.Name())
	case info.Mode().IsRegular() && isArchive:
		return pkg{name: name, path: file, kind: pkgArchive}, nil
	case matchesAny(companions, filepath.Base(file)):
		return pkg{}, nil
	}
	return pkg{}, fmt.Errorf("%s: a file in the packages' folder must be an archive named NAME%s: rename it, move it away, or list %q under apps.exclude",
		file, strings.Join(archiveSuffixes, ", NAME"), name)
}

func packageDir(dir, name string) (pkg, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return pkg{}, fmt.Errorf("package %q: %w", name, err)
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	if slices.Contains(names, RecipeName) {
		if _, err := os.Stat(filepath.Join(dir, RecipeName)); err == nil {
			return pkg{name: name, path: dir, kind: pkgRecipe}, nil
		}
	}
	if slices.Contains(names, resultLink) {
		return builtElsewhere(dir, name)
	}
	if why := whyNoTree(names); why != "" {
		return pkg{}, fmt.Errorf("%s: not a package that can be shown: %s, or list %q under apps.exclude", dir, why, name)
	}
	return pkg{name: name, path: dir, kind: pkgTree}, nil
}

// builtElsewhere is the package whose folder holds a link to its tree.
func builtElsewhere(dir, name string) (pkg, error) {
	result := filepath.Join(dir, resultLink)
	switch info, err := os.Stat(result); {
	case err == nil && info.IsDir():
		return pkg{name: name, path: result, kind: pkgResult}, nil
	case err == nil:
		return pkg{}, fmt.Errorf("%s: must be a link to a built tree, but leads to a file", result)
	case !errors.Is(err, fs.ErrNotExist):
		return pkg{}, fmt.Errorf("package %q: %w", name, err)
	}
	target, err := os.Readlink(result)
	if err != nil {
		return pkg{}, fmt.Errorf("package %q: %w", name, err)
	}
	return pkg{}, fmt.Errorf("%s: points to %q, which isn't there: build package %q again", result, target, name)
}

// whyNoTree tells which form a folder that holds names could take, "" when it
// is an install tree.
func whyNoTree(names []string) string {
	has := func(list []string) func(string) bool {
		return func(name string) bool { return slices.Contains(list, name) }
	}
	strange := slices.DeleteFunc(slices.Clone(names), has(rootNames))
	switch {
	case len(names) == 0:
		return "it is empty; put its files in (bin, etc, usr, …)"
	case len(strange) == 0:
		return ""
	case slices.ContainsFunc(names, has([]string{"default.nix", "flake.nix"})):
		return "it has a Nix expression but no result; run nix build in it"
	case slices.ContainsFunc(names, has(buildFiles)):
		return "it looks like source code; tell in " + RecipeName + " how to build it, or put a link " + resultLink + " to the built tree beside it"
	case len(strange) < len(names):
		return fmt.Sprintf("it looks like an install tree, but no root directory has %s; move that out", quoteSome(strange))
	}
	return fmt.Sprintf("it has %s, where an install tree has root directories (bin, etc, usr, …), a recipe %s and a built package a link %s; make it one of these",
		quoteSome(strange), RecipeName, resultLink)
}

// quoteSome lists the first three of names.
func quoteSome(names []string) string {
	var b strings.Builder
	for i, name := range names[:min(len(names), 3)] {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", name)
	}
	if len(names) > 3 {
		fmt.Fprintf(&b, " and %d more", len(names)-3)
	}
	return b.String()
}
