package overlay

import (
	"errors"
	"io/fs"
	"path"
	"strings"
)

// blocklist is DragonOS' config/app-blocklist.toml: packages that are left
// out.
type blocklist struct {
	Apps []blockedApp `toml:"blocked_apps"`

	Strict     *bool `toml:"strict"`      // false: nothing is left out
	LogSkipped *bool `toml:"log_skipped"` // for DADK, which tells of each
}

// blockedApp names packages: NAME or NAME@VERSION, both with * and ?.
type blockedApp struct {
	Name   string `toml:"name"`
	Reason string `toml:"reason"`
}

// readBlocklist reads a block list; an empty one where there is no file.
func readBlocklist(file string) (*blocklist, error) {
	b := new(blocklist)
	text, err := readTOML(file, b)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	for _, app := range b.Apps {
		switch {
		case app.Name == "":
			return nil, locate(file, text, &keyError{"blocked_apps", "has an entry without a name"}, b)
		case strings.ContainsAny(app.Name, `[]\`):
			return nil, locate(file, text, &valueError{app.Name, "is no pattern: use NAME or NAME@VERSION, with * and ?"}, b)
		}
	}
	return b, nil
}

// blocks tells whether a package is left out.
func (b *blocklist) blocks(name, version string) bool {
	if b.Strict != nil && !*b.Strict {
		return false
	}
	for _, app := range b.Apps {
		if app.Name == name {
			return true
		}
		wantName, wantVersion, versioned := strings.Cut(app.Name, "@")
		if globs(wantName, name) && (!versioned || globs(wantVersion, version)) {
			return true
		}
	}
	return false
}

// globs matches with * and ? alone; names here hold no slashes.
func globs(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}
