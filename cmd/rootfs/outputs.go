package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// checkOutputs refuses outputs that would change what they are made from.
func (m *moment) checkOutputs(paths []string) error {
	seen := map[string]string{}
	manifest, err := outputPath(cmp.Or(m.project.Manifest.File, filepath.Join(m.project.Root, overlay.ManifestName)))
	if err != nil {
		return err
	}
	for _, path := range paths {
		real, err := outputPath(path)
		if err != nil {
			return fmt.Errorf("%s: %w", quoted(path), bare(err))
		}
		switch {
		case seen[real] != "":
			return fmt.Errorf("%s: two outputs can't be one file", quoted(path))
		case real == manifest:
			return fmt.Errorf("%s: is the project's manifest; write to another file", quoted(path))
		case m.mount != nil && beneath(real, m.mount.Mountpoint):
			return fmt.Errorf("%s: lies in the mount that it would be made from; write to another directory", quoted(path))
		case beneath(real, m.project.StateDir()):
			return fmt.Errorf("%s: lies in %s, where edits are kept; write to another directory", quoted(path), quoted(m.project.StateDir()))
		}
		if err := cmp.Or(outsideLayers(m.project, real), outsideTree(m.tree, real)); err != nil {
			return fmt.Errorf("%s: %w; write to another directory", quoted(path), err)
		}
		for other, name := range seen {
			if beneath(real, other) || beneath(other, real) {
				return fmt.Errorf("%s: two outputs can't lie in each other, as it and %s do", quoted(path), quoted(name))
			}
		}
		seen[real] = path
	}
	return nil
}

// outputPath returns the absolute path of a file that may not exist yet, nor
// its directories, without symlinks.
func outputPath(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	rest := ""
	for dir := abs; ; dir = filepath.Dir(dir) {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		// A link to what doesn't exist yet is written through.
		if target, err := os.Readlink(dir); err == nil && rest == "" {
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(dir), target)
			}
			dir = target
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}
