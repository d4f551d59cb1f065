package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A DragonOS checkout says in files of its own what rootfs.toml would: they
// are read in its place. Their form is that of DragonOS'
// docs/userland/rootfs/dadk-rootfs-manifest.md and of DADK's dadk-config.

// checkoutManifests is the folder that makes a project a DragonOS checkout.
const checkoutManifests = "config/rootfs-manifests"

// defaultCheckout is the manifest of a checkout that is read if no other is
// asked for.
const defaultCheckout = "default"

// checkoutPackages is where package files are when the manifest doesn't say.
const checkoutPackages = "user/dadk/config"

// checkoutRoot are the directories that DragonOS' tools make in every root,
// below all that may be in their place.
var checkoutRoot = []string{"bin", "dev", "proc", "root", "sbin", "tmp", "usr"}

// checkout is what a DragonOS manifest says beyond what ours can.
type checkout struct {
	configDir string // the package files' folder, absolute on the host
	blocked   *blocklist
}

// checkoutTable is the form of config/rootfs-manifests/NAME.toml.
type checkoutTable struct {
	Metadata struct {
		Name string `toml:"name"`
		Arch string `toml:"arch"` // "" and "*" are any
	} `toml:"metadata"`
	Rootfs struct {
		FSType    string `toml:"fs_type"`
		Size      any    `toml:"size"` // bytes, or a text as "2G"
		Partition string `toml:"partition"`
	} `toml:"rootfs"`
	Base struct {
		Image      string `toml:"image"` // "" for none
		PullPolicy string `toml:"pull_policy"`
	} `toml:"base"`
	User struct {
		ConfigDir string `toml:"config_dir"`
	} `toml:"user"`
}

// IsCheckout tells whether the project is in the form of DragonOS.
func (p *Project) IsCheckout() bool { return p.Manifest.checkout != nil }

func isCheckout(root string) bool { return isDir(filepath.Join(root, checkoutManifests)) }

// checkoutManifest returns the manifest that ROOTFS_MANIFEST names.
func checkoutManifest(root string) string {
	name := os.Getenv("ROOTFS_MANIFEST")
	if name == "" {
		name = defaultCheckout
	}
	return filepath.Join(root, checkoutManifests, name+".toml")
}

// readManifestOf reads a manifest in whichever form it has.
func readManifestOf(root, file string) (*Manifest, error) {
	if abs, err := filepath.Abs(file); err == nil && filepath.Dir(abs) == filepath.Join(root, checkoutManifests) {
		return readCheckout(root, abs)
	}
	return readManifest(file)
}

// readCheckout reads a DragonOS manifest and the list of blocked packages.
func readCheckout(root, file string) (*Manifest, error) {
	var table checkoutTable
	text, err := readTOML(file, &table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is no such manifest%s: name one by ROOTFS_MANIFEST", file, otherManifests(file))
	}
	if err != nil {
		return nil, err
	}
	m, err := table.manifest(root)
	if err != nil {
		return nil, locate(file, text, err, &table)
	}
	m.File = file
	if m.checkout.blocked, err = readBlocklist(filepath.Join(root, "config/app-blocklist.toml")); err != nil {
		return nil, err
	}
	return m, nil
}

// otherManifests lists what is there in place of file, for a message.
func otherManifests(file string) string {
	found := tomlFiles(filepath.Dir(file))
	for i, f := range found {
		found[i] = strings.TrimSuffix(filepath.Base(f), ".toml")
	}
	if len(found) == 0 {
		return ""
	}
	return ", but " + quoteSome(found)
}

// tomlFiles lists the files of a folder, none where it can't be read.
func tomlFiles(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var files []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".toml" {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files
}

// imageSize is how DADK writes a size.
var imageSize = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[1-9][0-9]*[KMGkmg]?$`)
})

func (t *checkoutTable) manifest(root string) (*Manifest, error) {
	m := defaultManifest()
	var err error
	if m.Arch, err = checkoutArch(t.Metadata.Arch); err != nil {
		return nil, err
	}
	if m.Image, err = t.image(m.Image); err != nil {
		return nil, err
	}
	m.Base.Source = strings.TrimSpace(t.Base.Image)
	if base := os.Getenv("ROOTFS_BASE"); base != "" {
		if m.Base.Source, err = filepath.Abs(base); err != nil {
			return nil, err
		}
	}
	dir := t.User.ConfigDir
	if dir == "" {
		dir = checkoutPackages
	}
	m.checkout = &checkout{configDir: filepath.Join(root, dir)}
	if !filepath.IsLocal(dir) || !isDir(m.checkout.configDir) {
		return nil, &valueError{dir, "there is no such folder of package files in the checkout"}
	}
	return m, nil
}

// checkoutArch returns the architecture of a manifest that is for one or for
// any, and of ARCH in the environment.
func checkoutArch(arch string) (string, error) {
	want := os.Getenv("ARCH")
	anyArch := arch == "" || arch == "*"
	switch {
	case !anyArch && !slices.Contains(archs, arch):
		return "", &valueError{arch, "use one of *, " + strings.Join(archs, ", ")}
	case want != "" && !slices.Contains(archs, want):
		return "", fmt.Errorf("ARCH=%q in the environment: use one of %s", want, strings.Join(archs, ", "))
	case !anyArch && want != "" && want != arch:
		return "", &valueError{arch, fmt.Sprintf("but the environment has ARCH=%s: unset it, or choose another manifest by ROOTFS_MANIFEST", want)}
	case !anyArch:
		return arch, nil
	case want != "":
		return want, nil
	}
	return archs[0], nil
}

// image puts what the manifest says of the image over what is usual.
func (t *checkoutTable) image(s ImageSettings) (ImageSettings, error) {
	switch fsType := t.Rootfs.FSType; strings.ToLower(fsType) {
	case "", "fat32":
		s.Filesystem = "vfat"
	case "ext4":
		s.Filesystem = "ext4"
	default:
		return s, &valueError{fsType, "use fat32 or ext4"}
	}
	switch t.Rootfs.Partition {
	case "":
	case "mbr", "gpt", "none":
		s.Partition = t.Rootfs.Partition
	default:
		return s, &valueError{t.Rootfs.Partition, "use one of mbr, gpt, none"}
	}
	size := "2G"
	switch value := t.Rootfs.Size.(type) {
	case nil:
	case string:
		size = value
	case int64:
		size = strconv.FormatInt(value, 10)
	default:
		return s, &keyError{"size", "must be a number of bytes or a text as in \"2G\""}
	}
	if !imageSize().MatchString(size) {
		if _, isText := t.Rootfs.Size.(string); !isText {
			return s, &keyError{"size", "must be a number of bytes or a text as in \"2G\""}
		}
		return s, &valueError{size, "is no size: write a number and K, M or G, as in \"2G\""}
	}
	s.Size = size
	return s, nil
}

// checkoutBase returns the layer of the directories that every root has.
func (p *Project) checkoutBase() (*Layer, error) {
	own := &Manifest{File: p.Manifest.File}
	for _, dir := range checkoutRoot {
		own.Files = append(own.Files, ManifestFile{Path: dir, Type: "dir"})
	}
	return (&Project{Root: p.Root, Manifest: own}).manifestLayer()
}

// CheckoutDirs are the folders of a DragonOS checkout with the files that say
// what its packages are.
func (p *Project) CheckoutDirs() []string {
	c := p.Manifest.checkout
	dirs := []string{filepath.Join(p.Root, "config"), filepath.Dir(p.Manifest.File), c.configDir}
	_ = filepath.WalkDir(c.configDir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case entry.IsDir():
			dirs = append(dirs, name)
		case filepath.Ext(name) == ".toml":
			if file, err := filepath.EvalSymlinks(name); err == nil {
				dirs = append(dirs, filepath.Dir(file))
			}
		}
		return nil // what can't be read, the packages tell of
	})
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// adviseBase adds to an error of the base what else there is to do. c is nil
// for other projects.
func (c *checkout) adviseBase(err error) error {
	if c == nil || os.Getenv("ROOTFS_BASE") != "" {
		return err
	}
	return fmt.Errorf("%w; the manifest's base can be given by ROOTFS_BASE=PATH: a directory, a rootfs tar, a docker archive or an OCI layout", err)
}

// FetchDir is the cache of files that packages are fetched from.
func (p *Project) FetchDir() string { return filepath.Join(p.cacheDir(), "fetched") }
