package overlay

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// ManifestName is the manifest's usual file name.
const ManifestName = "rootfs.toml"

// Manifest is what rootfs.toml says, with the defaults filled in.
type Manifest struct {
	File string `toml:"-"` // "" when the project has none

	Arch      string   `toml:"arch"`      // x86_64 aarch64 riscv64 loongarch64
	Conflicts string   `toml:"conflicts"` // warn error allow
	Remove    []string `toml:"remove"`    // paths taken away from the layers below

	Base struct {
		Source string `toml:"source"` // a directory, rootfs tar, docker archive, OCI layout or image reference
	} `toml:"base"`
	Apps struct {
		Path    string   `toml:"path"`
		Order   []string `toml:"order"`
		Exclude []string `toml:"exclude"`
	} `toml:"apps"`
	Sysconfig struct {
		Path string `toml:"path"`
	} `toml:"sysconfig"`
	Build struct {
		Cache string `toml:"cache"` // repository of a registry that shares built packages
	} `toml:"build"`
	Layers []ManifestLayer `toml:"layer"`
	Files  []ManifestFile  `toml:"file"`
	Image  ImageSettings   `toml:"image"`

	checkout *checkout // of a DragonOS manifest; nil for rootfs.toml
}

// ManifestLayer is one more layer, above sysconfig.
type ManifestLayer struct {
	Name   string `toml:"name"`
	Source string `toml:"source"`
}

// ManifestFile is an entry that git can't hold. Without a type it changes the
// metadata of what the layers have.
type ManifestFile struct {
	Path   string  `toml:"path"`
	Type   string  `toml:"type"` // dir char block fifo socket symlink, or "" to change what is there
	Major  uint32  `toml:"major"`
	Minor  uint32  `toml:"minor"`
	Mode   string  `toml:"mode"` // octal, "4755"
	UID    *uint32 `toml:"uid"`
	GID    *uint32 `toml:"gid"`
	Target string  `toml:"target"` // of a symlink

	perm *uint32 // Mode, parsed
}

// ImageSettings are the manifest's wishes for the disk image.
type ImageSettings struct {
	Filesystem string `toml:"filesystem"` // ext4 vfat
	Partition  string `toml:"partition"`  // mbr gpt none
	Size       string `toml:"size"`       // "auto", or as "2GiB"
	Free       string `toml:"free"`       // added to the content when the size is "auto"
	Label      string `toml:"label"`
	UUID       string `toml:"uuid"` // "" derives it from the content
}

func defaultManifest() *Manifest {
	m := &Manifest{Arch: "x86_64", Conflicts: "warn"}
	m.Apps.Path = "user/apps"
	m.Sysconfig.Path = "user/sysconfig"
	m.Image = ImageSettings{Filesystem: "ext4", Partition: "mbr", Size: "auto", Free: "1GiB", Label: "rootfs"}
	return m
}

// readManifest reads the manifest file. A wrong one gives an error that
// starts with file:line:column where the library knows them.
func readManifest(file string) (*Manifest, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, locate(file, text, err, m)
	}
	m.File = file
	return m, nil
}

func parseManifest(text []byte) (*Manifest, error) {
	m := defaultManifest()
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return m, err
	}
	return m, m.check()
}

// valueError is a value that the manifest's format allows but we don't.
type valueError struct{ value, problem string }

func (e *valueError) Error() string { return fmt.Sprintf("%q: %s", e.value, e.problem) }

func (m *Manifest) check() error {
	for _, c := range []struct {
		value   string
		allowed []string
	}{
		{m.Arch, archs},
		{m.Conflicts, []string{"warn", "error", "allow"}},
		{m.Image.Filesystem, []string{"ext4", "vfat"}},
		{m.Image.Partition, []string{"mbr", "gpt", "none"}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			return &valueError{c.value, "use one of " + strings.Join(c.allowed, ", ")}
		}
	}
	for i, p := range m.Remove {
		clean, err := cleanPath(p)
		if err != nil {
			return err
		}
		m.Remove[i] = clean
	}
	m.Remove = outermost(m.Remove)
	for i := range m.Layers {
		l := &m.Layers[i]
		if l.Source == "" {
			return &valueError{l.Name, "a [[layer]] needs a source"}
		}
		if l.Name == "" {
			l.Name = l.Source
		}
	}
	for i := range m.Files {
		if err := m.Files[i].check(); err != nil {
			return err
		}
	}
	return m.checkParents()
}

// outermost returns those of paths that lie in none of the others.
func outermost(paths []string) []string {
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	return slices.DeleteFunc(paths, func(p string) bool {
		for p = path.Dir(p); p != "."; p = path.Dir(p) {
			if slices.Contains(paths, p) {
				return true
			}
		}
		return false
	})
}

// checkParents refuses entries in what the manifest makes no directory.
func (m *Manifest) checkParents() error {
	types := make(map[string]string)
	paths := slices.Clone(m.Remove)
	for i := range m.Files {
		if f := &m.Files[i]; f.Type != "" {
			types[f.Path] = f.Type
			paths = append(paths, f.Path)
		}
	}
	for _, p := range paths {
		for up := path.Dir(p); up != "."; up = path.Dir(up) {
			if typ, ok := types[up]; ok && typ != "dir" {
				return &valueError{"/" + p, fmt.Sprintf("lies in %q, which is to be a %s", "/"+up, typ)}
			}
		}
	}
	return nil
}

var manifestTypes = map[string]uint32{
	"": 0, "dir": unix.S_IFDIR, "char": unix.S_IFCHR, "block": unix.S_IFBLK,
	"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "symlink": unix.S_IFLNK,
}

// The largest device numbers that there are (linux/kdev_t.h, MINORBITS).
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// nobodysID is what chown(2) takes for no owner at all.
const nobodysID uint32 = 1<<32 - 1

func (f *ManifestFile) check() error {
	given := f.Path
	clean, err := cleanPath(f.Path)
	if err != nil {
		return err
	}
	f.Path = clean
	typ, ok := manifestTypes[f.Type]
	switch {
	case !ok:
		return &valueError{f.Type, "use one of dir, char, block, fifo, socket, symlink, or no type to change what a layer has"}
	case (typ == unix.S_IFLNK) != (f.Target != ""):
		return &valueError{given, "a target belongs to type = \"symlink\", and only there"}
	case strings.ContainsRune(f.Target, 0) || len(f.Target) >= unix.PathMax:
		return &valueError{given, "its target can't be in a symlink"}
	case f.Major > maxMajor || f.Minor > maxMinor:
		return &valueError{given, fmt.Sprintf("device %d:%d is more than Linux takes, %d:%d", f.Major, f.Minor, maxMajor, maxMinor)}
	case f.UID != nil && *f.UID == nobodysID || f.GID != nil && *f.GID == nobodysID:
		return &valueError{given, fmt.Sprintf("nobody can be user or group %d: use a smaller number", nobodysID)}
	case typ == 0 && f.Mode == "" && f.UID == nil && f.GID == nil:
		return &valueError{given, "says nothing: give a type, mode, uid or gid"}
	}
	if f.Mode == "" {
		return nil
	}
	mode, err := strconv.ParseUint(f.Mode, 8, 32)
	if err != nil || mode > 0o7777 {
		return &valueError{f.Mode, "is no mode: use octal digits, as in \"4755\""}
	}
	perm := uint32(mode)
	f.perm = &perm
	return nil
}

// cleanPath makes an absolute path of the target's root relative to it.
func cleanPath(p string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if clean == "" || strings.ContainsRune(p, 0) {
		return "", &valueError{p, "is no path below the root"}
	}
	return clean, nil
}

// meta is the metadata of an entry that the manifest makes.
func (f *ManifestFile) meta() meta {
	m := meta{mode: manifestTypes[f.Type], rdev: unix.Mkdev(f.Major, f.Minor)}
	switch {
	case f.perm != nil:
		m.mode |= *f.perm
	case m.mode == unix.S_IFDIR:
		m.mode |= 0o755
	case m.mode == unix.S_IFLNK:
		m.mode |= 0o777
	default:
		m.mode |= 0o644
	}
	if f.UID != nil {
		m.uid = *f.UID
	}
	if f.GID != nil {
		m.gid = *f.GID
	}
	return m
}
