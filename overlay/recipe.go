package overlay

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// RecipeName is the name of a recipe's file in its package's folder.
const RecipeName = "package.toml"

// Recipe says how a package is built: its package.toml.
type Recipe struct {
	File string // on the host

	// What a list of contents says of the package; "" where it isn't known.
	Version, License string // the latter as an SPDX expression

	// Command is run in the package's folder. What it puts into DESTDIR is the
	// package.
	Command []string

	Path    string   // where in the root DESTDIR appears, relative, "." for the root; "" for nowhere
	Archs   []string // the architectures that the package is for; empty for all
	Depends []string // packages to be built before, sorted

	// Env is added to the command's environment. In its values, ${NAME} is
	// another variable of it or of the caller.
	Env map[string]string

	Timeout time.Duration // after which the command is ended
	Tools   []string      // programs whose version counts as an input
	Ignore  []string      // patterns of files in the folder that are no inputs

	Source *Source // of the folder; nil where the project has it
	Once   bool    // what has been built isn't built again when the folder changes

	// Confined keeps the command from writing anywhere but to its own places,
	// where the kernel can.
	Confined bool
}

// recipeTable is the file's form.
type recipeTable struct {
	Command  any               `toml:"command"` // a text for sh, or a list of words
	Path     string            `toml:"path"`
	Arch     any               `toml:"arch"` // one, or a list
	Depends  []string          `toml:"depends"`
	Env      map[string]string `toml:"env"`
	Timeout  string            `toml:"timeout"`
	Tools    []string          `toml:"tools"`
	Ignore   []string          `toml:"ignore"`
	Confined *bool             `toml:"confined"`
	Version  string            `toml:"version"`
	License  string            `toml:"license"`
}

// defaultTimeout ends a build that hangs, where its recipe doesn't say when.
const defaultTimeout = time.Hour

// archs are the architectures that there are.
var archs = []string{"x86_64", "aarch64", "riscv64", "loongarch64"}

// ReadRecipe reads a package.toml. The error of a wrong one starts with
// file:line:column where these are known.
func ReadRecipe(file string) (*Recipe, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseRecipe(file, text)
}

func parseRecipe(file string, text []byte) (*Recipe, error) {
	var table recipeTable
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err := dec.Decode(&table)
	var r *Recipe
	if err == nil {
		r, err = table.recipe()
	}
	if err != nil {
		return nil, locate(file, text, err, &table)
	}
	r.File = file
	return r, nil
}

// For tells whether the package exists on an architecture.
func (r *Recipe) For(arch string) bool {
	return len(r.Archs) == 0 || slices.Contains(r.Archs, arch)
}

func (t *recipeTable) recipe() (*Recipe, error) {
	r := &Recipe{
		Version: t.Version, License: t.License,
		Path: strings.TrimPrefix(path.Clean("/"+t.Path), "/"), Depends: slices.Compact(slices.Sorted(slices.Values(t.Depends))),
		Env: t.Env, Timeout: defaultTimeout, Tools: t.Tools, Ignore: t.Ignore,
		Confined: t.Confined == nil || *t.Confined,
	}
	if r.Path == "" {
		r.Path = "."
	}
	var err error
	if r.Command, err = words("command", t.Command); err != nil {
		return nil, err
	}
	if text, ok := t.Command.(string); ok {
		r.Command = []string{"sh", "-ec", text}
	}
	if len(r.Command) == 0 || strings.TrimSpace(r.Command[len(r.Command)-1]) == "" {
		return nil, &keyError{"command", "says nothing: give what builds the package, as in command = \"make install\""}
	}
	if r.Archs, err = words("arch", t.Arch); err != nil {
		return nil, err
	}
	for _, arch := range r.Archs {
		if !slices.Contains(archs, arch) {
			return nil, &valueError{arch, "use one of " + strings.Join(archs, ", ")}
		}
	}
	if t.Timeout != "" {
		if r.Timeout, err = time.ParseDuration(t.Timeout); err != nil || r.Timeout <= 0 {
			return nil, &valueError{t.Timeout, "is no time: use as in \"90s\", \"10m\" or \"1h30m\""}
		}
	}
	for _, pattern := range r.Ignore {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, &valueError{pattern, "is no pattern: use *, ? and [a-z]"}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		if strings.ContainsAny(name, "=\x00") || strings.ContainsRune(r.Env[name], 0) {
			return nil, &valueError{name, "can't be in an environment"}
		}
	}
	return r, nil
}

// DependencyVariable names the variable that holds where a dependency's
// output is: DEP_ZLIB_1_3 for "zlib-1.3".
func DependencyVariable(name string) string {
	return "DEP_" + strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

// words returns the words of a value that is one text or a list of texts.
func words(key string, value any) ([]string, error) {
	switch value := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{value}, nil
	case []any:
		list := make([]string, len(value))
		for i, v := range value {
			word, ok := v.(string)
			if !ok {
				return nil, &keyError{key, "must be a text or a list of texts"}
			}
			list[i] = word
		}
		return list, nil
	}
	return nil, &keyError{key, "must be a text or a list of texts"}
}

// keyError is a key with a value of another type than its own, or without one.
type keyError struct{ key, problem string }

func (e *keyError) Error() string { return fmt.Sprintf("%s %s", e.key, e.problem) }
