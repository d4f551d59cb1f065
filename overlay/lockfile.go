package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/pelletier/go-toml/v2"
)

// LockName is the file beside the manifest that says which images its
// references are. With it in version control, everybody has the same base.
const LockName = "rootfs.lock"

const lockHead = "# Which images the references in rootfs.toml are. Made by rootfs; keep it in\n" +
	"# version control. To take newer ones: rootfs pull\n\n"

type lockFile struct {
	Images []LockedImage `toml:"image"`
}

// LockedImage is what a reference of the manifest stands for.
type LockedImage struct {
	Source string `toml:"source" json:"source"`
	Arch   string `toml:"arch" json:"arch"`     // as in rootfs.toml
	Digest string `toml:"digest" json:"digest"` // "sha256:…", of the manifest for arch
}

// LockFile is the path of the project's lock file.
func (p *Project) LockFile() string {
	if p.Manifest.File != "" {
		return filepath.Join(filepath.Dir(p.Manifest.File), LockName)
	}
	return filepath.Join(p.Root, LockName)
}

func readLock(file string) (*lockFile, error) {
	lock := new(lockFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return lock, nil
	}
	if err != nil {
		return nil, err
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(lock); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the file to have it made anew", file, err)
	}
	for _, image := range lock.Images {
		if h, err := v1.NewHash(image.Digest); err != nil || h.Algorithm != "sha256" {
			return nil, fmt.Errorf("%s: %s: %q is no sha256 digest; remove the entry to have it made anew", file, image.Source, image.Digest)
		}
	}
	return lock, nil
}

func (l *lockFile) find(source, arch string) (v1.Hash, bool) {
	for _, image := range l.Images {
		if image.Source == source && image.Arch == arch {
			digest, err := v1.NewHash(image.Digest)
			return digest, err == nil
		}
	}
	return v1.Hash{}, false
}

// set puts an entry in the place of one for the same source and architecture.
func (l *lockFile) set(image LockedImage) {
	l.Images = slices.DeleteFunc(l.Images, func(old LockedImage) bool {
		return old.Source == image.Source && old.Arch == image.Arch
	})
	l.Images = append(l.Images, image)
	slices.SortFunc(l.Images, func(a, b LockedImage) int {
		return strings.Compare(a.Source+"\x00"+a.Arch, b.Source+"\x00"+b.Arch)
	})
}

func (l *lockFile) write(file string) error {
	text, err := toml.Marshal(l)
	if err != nil {
		return err
	}
	return writeFileAtomically(file, append([]byte(lockHead), text...))
}
