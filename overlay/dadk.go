package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// dadkTable is the form of a DADK package file (DADK, dadk-config/src/user and
// src/common/task.rs).
type dadkTable struct {
	Name        string   `toml:"name"`
	Version     string   `toml:"version"`
	Description string   `toml:"description"`
	BuildOnce   bool     `toml:"build-once"`
	InstallOnce bool     `toml:"install-once"` // an install costs nothing here
	TargetArch  []string `toml:"target-arch"`
	Source      struct {
		Type     string `toml:"type"`
		Source   string `toml:"source"`
		Path     string `toml:"source-path"`
		RootDir  string `toml:"archive-rootdir"`
		Branch   string `toml:"branch"`
		Revision string `toml:"revision"`
	} `toml:"task-source"`
	Build struct {
		Command   string `toml:"build-command"`
		PreBuild  string `toml:"pre-build"`
		PostBuild string `toml:"post-build"`
	} `toml:"build"`
	Install struct {
		Path *string `toml:"in-dragonos-path"` // nil: used by other packages only
	} `toml:"install"`
	Clean struct {
		Command string `toml:"clean-command"`
	} `toml:"clean"`
	Depends []struct {
		Name    string `toml:"name"`
		Version string `toml:"version"`
	} `toml:"depends"`
	Envs []struct {
		Key   string `toml:"key"`
		Value string `toml:"value"`
	} `toml:"envs"`
}

// Source says where a package's folder is fetched from that the project
// doesn't have.
type Source struct {
	Archive string // URL, or the host path of a file
	RootDir string // folder in the archive that is taken; "" for all of it

	Git      string // URL of a repository
	Branch   string
	Revision string // in place of a branch; at most one is given
}

// prebuilt is the command of a package that is there already.
const prebuilt = `cp -a . "$DESTDIR"`

// readTOML reads a file with no other keys than table has. The error of a
// wrong one starts with file:line:column.
func readTOML(file string, table any) (text []byte, err error) {
	if text, err = os.ReadFile(file); err != nil {
		return nil, err
	}
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(table); err != nil {
		return nil, locate(file, text, err, table)
	}
	return text, nil
}

// checkoutPackages reads the package files of a checkout, without the blocked
// ones, by name.
func (p *Project) checkoutPackages() ([]Package, error) {
	c := p.Manifest.checkout
	var files []string
	err := filepath.WalkDir(c.configDir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(name, ".toml") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*dadkPackage)
	var bad []error
	for _, file := range files {
		pk, err := p.readDADK(file)
		if err == nil && byName[pk.Name] != nil {
			err = fmt.Errorf("%s and %s are both package %q: keep one of them", byName[pk.Name].Recipe.File, file, pk.Name)
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		byName[pk.Name] = pk
	}
	var all []Package
	for _, pk := range byName {
		if !c.blocked.blocks(pk.Name, pk.Recipe.Version) {
			bad = append(bad, pk.resolve(byName, c.blocked))
			all = append(all, pk.Package)
		}
	}
	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(bad...)
}

// checkoutShown lists the packages of a checkout that are installed, each after
// what it depends on. Their paths are their package files'.
func (p *Project) checkoutShown() ([]pkg, error) {
	pkgs, err := p.Packages()
	if err != nil {
		return nil, err
	}
	var shown []pkg
	for _, pk := range pkgs {
		if pk.Recipe.Path != "" {
			shown = append(shown, pkg{name: pk.Name, path: pk.Recipe.File, kind: pkgRecipe})
		}
	}
	return shown, nil
}

// dadkPackage is a package with what its relations need.
type dadkPackage struct {
	Package
	needs map[string]string // versions by name
}

// readDADK reads one package file.
func (p *Project) readDADK(file string) (*dadkPackage, error) {
	var table dadkTable
	text, err := readTOML(file, &table)
	if err != nil {
		return nil, err
	}
	pk, err := p.dadkPackage(&table)
	if err != nil {
		return nil, locate(file, text, err, &table)
	}
	pk.Recipe.File = file
	return pk, nil
}

func (p *Project) dadkPackage(t *dadkTable) (*dadkPackage, error) {
	name := strings.TrimSpace(t.Name)
	switch {
	case name == "":
		return nil, &keyError{"name", "is missing: give the package a name"}
	case name[0] == '.' || strings.ContainsAny(name, "/\x00\n"):
		return nil, &valueError{t.Name, "can't be a package's name"}
	case len(t.TargetArch) == 0:
		return nil, &keyError{"target-arch", "is missing: list the architectures that the package is for"}
	}
	for _, arch := range t.TargetArch {
		if !slices.Contains(archs, arch) {
			return nil, &valueError{arch, "use one of " + strings.Join(archs, ", ")}
		}
	}
	r := &Recipe{
		Version: strings.TrimSpace(t.Version),
		Archs:   t.TargetArch, Env: make(map[string]string), Timeout: defaultTimeout, Confined: true, Once: t.BuildOnce,
	}
	if t.Install.Path != nil {
		if !path.IsAbs(*t.Install.Path) {
			return nil, &valueError{*t.Install.Path, "must be a path from the root, as \"/bin\""}
		}
		if r.Path = strings.TrimPrefix(path.Clean(*t.Install.Path), "/"); r.Path == "" {
			r.Path = "."
		}
	}
	for _, env := range t.Envs {
		if env.Key == "" || strings.ContainsAny(env.Key, "=\x00") || strings.ContainsRune(env.Value, 0) {
			return nil, &valueError{env.Key, "can't be in an environment"}
		}
		r.Env[env.Key] = env.Value
	}
	pk := &dadkPackage{Package: Package{Name: name, Recipe: r}, needs: make(map[string]string)}
	for _, need := range t.Depends {
		r.Depends = append(r.Depends, need.Name)
		pk.needs[need.Name] = need.Version
	}
	slices.Sort(r.Depends)
	r.Depends = slices.Compact(r.Depends)
	if err := t.command(r); err != nil {
		return nil, err
	}
	return pk, p.dadkSource(t, &pk.Package)
}

// command makes the recipe's command.
func (t *dadkTable) command(r *Recipe) error {
	command := strings.TrimSpace(t.Build.Command)
	switch t.Source.Type {
	case "build-from-source":
		if command == "" {
			return &keyError{"build-command", "is missing: say how to build the package"}
		}
	case "install-from-prebuilt":
		if command != "" {
			return &keyError{"build-command", "belongs to packages that are built from source"}
		}
		command = prebuilt
	default:
		return &valueError{t.Source.Type, "use build-from-source or install-from-prebuilt"}
	}
	for _, script := range []string{t.Build.PreBuild, t.Build.PostBuild} {
		if script != "" { // of DragonOS' package files, none has any
			return &valueError{script, "scripts before and after a build aren't run: call it in build-command"}
		}
	}
	r.Command = []string{"bash", "-c", command}
	return nil
}

// dadkSource sets the folder of a package and where it comes from.
func (p *Project) dadkSource(t *dadkTable, pk *Package) error {
	from, where := t.Source, strings.TrimSpace(t.Source.Path)
	if where == "" {
		return &keyError{"source-path", "is missing: say where the package's files are"}
	}
	if root := from.RootDir; root != "" && !filepath.IsLocal(root) {
		return &valueError{root, "must be a folder in the archive"}
	}
	pk.Path = filepath.Join(p.StateDir(), "sources", pk.Name)
	switch from.Source {
	case "local":
		pk.Path = p.path(where)
		if st, err := os.Stat(pk.Path); err == nil && !st.IsDir() {
			return &valueError{where, "must be a folder"}
		}
	case "archive":
		if u, err := url.Parse(where); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return &valueError{where, "must be an address that starts with http:// or https://"}
		}
		pk.Recipe.Source = &Source{Archive: where, RootDir: from.RootDir}
	case "git":
		switch {
		case from.Type == "install-from-prebuilt":
			return &valueError{from.Source, "can't be a prebuilt package's source; use local or archive"}
		case from.Branch != "" && from.Revision != "":
			return &keyError{"revision", "excludes branch: keep one of them"}
		case strings.HasPrefix(where, "-") || strings.HasPrefix(from.Branch, "-") || strings.HasPrefix(from.Revision, "-"):
			return &keyError{"source-path", "and branch or revision can't start with a dash"}
		}
		pk.Recipe.Source = &Source{Git: where, Branch: from.Branch, Revision: from.Revision}
		if from.Branch == "" && from.Revision == "" {
			pk.Recipe.Source.Branch = "master" // as DADK has it
		}
	default:
		return &valueError{from.Source, "use one of local, archive, git"}
	}
	return nil
}

// resolve checks a package's dependencies and gives it DADK's variables for
// the folders where they are.
func (pk *dadkPackage) resolve(all map[string]*dadkPackage, blocked *blocklist) error {
	for name, version := range pk.needs {
		need := all[name]
		switch {
		case need == nil:
			continue // told with what there is
		case blocked.blocks(name, need.Recipe.Version):
			return pk.Recipe.at(&valueError{name, "config/app-blocklist.toml blocks this package; block what depends on it too, or let it through"})
		case need.Recipe.Version != version:
			return pk.Recipe.at(&valueError{name, fmt.Sprintf("version %q of it is wanted, but there is %q", version, need.Recipe.Version)})
		}
		// DADK's folder is what is installed, ours the root with it in place.
		pk.Recipe.Env["DADK_BUILD_CACHE_DIR_"+dadkVariable(name, version)] = path.Join("${"+DependencyVariable(name)+"}", need.Recipe.Path)
	}
	return nil
}

// dadkVariable is the end of a variable's name for a package (DADK,
// dadk-user/src/parser/task.rs, name_version_uppercase).
func dadkVariable(name, version string) string {
	return strings.NewReplacer(" ", "_", "\t", "_", "-", "_", ".", "_", "+", "_", "*", "_").Replace(strings.ToUpper(name + "-" + version))
}
