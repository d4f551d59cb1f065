package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/fusefs"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// As a mount helper, the program shows directories as the kernel's overlayfs
// and fuse-overlayfs do, without a project:
//
//	mount -t fuse.rootfs SOURCE MNT -o lowerdir=A:B,upperdir=U,workdir=W
//
// For that type, mount(8) runs mount.fuse(8), which runs "rootfs SOURCE MNT -o
// OPTS" from the PATH; or mount.fuse.rootfs where there is one, a link to this
// program. Both become "rootfs mount".

// helperArgs turns the command line of a mount helper into that of the verb;
// any other one it returns as it is.
func helperArgs(app *cli.App, args []string) ([]string, error) {
	name := filepath.Base(args[0])
	switch {
	case name == "mount."+fsType || name == "mount.rootfs":
		return linkedHelperArgs(args)
	case len(args) == 5 && args[3] == "-o" && !isFlag(args[1]) && app.Command(args[1]) == nil:
		return mountArgs(args[0], args[1], args[2], []string{args[4]}), nil
	}
	return args, nil
}

// linkedHelperArgs reads what mount(8) gives to a /sbin/mount.TYPE:
// SOURCE MNT [-sfnv] [-N NAMESPACE] [-o OPTS] [-t TYPE], in any order.
func linkedHelperArgs(args []string) ([]string, error) {
	var words, options []string
	for i := 1; i < len(args); i++ {
		switch word := args[i]; {
		case !isFlag(word):
			words = append(words, word)
		case word == "-t" && i+1 < len(args):
			i++
		case word == "-o" && i+1 < len(args):
			i++
			options = append(options, args[i])
		case strings.Trim(word, "-snv") == "": // nothing of it applies
		default:
			return nil, &usageError{what: fmt.Sprintf("a mount helper doesn't know the flag %s", word), verb: "mount"}
		}
	}
	if len(words) != 2 || len(options) == 0 {
		return nil, &usageError{what: "a mount helper takes: SOURCE MNT -o lowerdir=DIR[:DIR…][,upperdir=DIR,workdir=DIR]", verb: "mount"}
	}
	return mountArgs(args[0], words[0], words[1], options), nil
}

func mountArgs(program, source, dir string, options []string) []string {
	// An option of that name among the others is the last one, and holds.
	options = append([]string{"helper,fsname=" + strings.ReplaceAll(source, ",", `\,`)}, options...)
	return []string{program, "mount", "-o", strings.Join(options, ","), "--", dir}
}

// mountOptions are the words for -o, sorted out.
type mountOptions struct {
	directories overlay.Directories // where lowerdir or another of its words was given
	given       bool
	source      string // fsname; "" where none was given
	words       []string
}

// readOptions sorts the words of all -o out. The flag library has cut them at
// commas, also at escaped ones.
func readOptions(flags []string) (*mountOptions, error) {
	m := new(mountOptions)
	for len(flags) > 0 {
		word := flags[0]
		flags = flags[1:]
		for strings.HasSuffix(word, `\`) && !strings.HasSuffix(word, `\\`) && len(flags) > 0 {
			word, flags = word[:len(word)-1]+","+flags[0], flags[1:]
		}
		if err := m.take(word); err != nil {
			return nil, err
		}
	}
	if !m.given {
		return m, nil
	}
	m.words = slices.DeleteFunc(m.words, withoutEffect)
	// As with the kernel's overlayfs: for everybody, and by owner and mode.
	if os.Geteuid() == 0 {
		m.words = append(m.words, "allow_other")
	}
	if !m.directories.SquashToRoot {
		m.words = append(m.words, "default_permissions")
	}
	return m, nil
}

// take notes one word.
func (m *mountOptions) take(word string) error {
	key, value, _ := strings.Cut(word, "=")
	d := &m.directories
	switch key {
	case "lowerdir":
		lower, err := splitDirs(value)
		if err != nil {
			return err
		}
		d.Lower = lower
	case "upperdir":
		d.Upper = value
	case "workdir":
		d.Work = value
	case "squash_to_root":
		d.SquashToRoot = true
	case "helper": // who calls a helper means directories, also without naming one
	case "fsname":
		m.source = value
		return nil
	default:
		m.words = append(m.words, word)
		return nil
	}
	m.given = true
	return nil
}

// splitDirs cuts a lowerdir at its colons; "\:" is a colon in a name.
func splitDirs(list string) ([]string, error) {
	var dirs []string
	var dir strings.Builder
	for i := 0; i <= len(list); i++ {
		switch {
		case i == len(list) || list[i] == ':':
			if dir.Len() == 0 {
				return nil, fmt.Errorf("lowerdir=%s: has an empty name in it: separate directories by one colon each", list)
			}
			dirs = append(dirs, dir.String())
			dir.Reset()
		case list[i] == '\\' && i+1 < len(list):
			i++
			dir.WriteByte(list[i])
		default:
			dir.WriteByte(list[i])
		}
	}
	return dirs, nil
}

// withoutEffect tells whether an option, of the kernel's overlayfs, of
// fuse-overlayfs or of fstab(5), asks for what is so anyway, for less, or for
// what concerns others.
func withoutEffect(word string) bool {
	key, value, _ := strings.Cut(word, "=")
	switch key {
	case "noacl", "static_nlink", "fast_ino", "volatile", "userxattr", "lazytime", "relatime", "subtype",
		"threaded", "timeout", "max_idle_threads", "xino", "index", "redirect_dir", "uuid",
		"defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group", "comment":
		return true
	case "metacopy", "nfs_export", "verity":
		return value == "off"
	}
	return strings.HasPrefix(key, "x-")
}

// checkDirectories checks the directories that the options name, and where
// they are to be mounted.
func (m *mountOptions) checkDirectories(name string, log *slog.Logger) (*overlay.Project, string, error) {
	p, err := m.directories.Project()
	if err != nil {
		return nil, "", err
	}
	dir, err := freeMountpoint(name, log)
	if err != nil {
		return nil, "", err
	}
	for _, layer := range append(p.LayerDirs(), p.Root) {
		if beneath(dir, layer) || beneath(layer, dir) {
			return nil, "", fmt.Errorf("%s: overlaps %s; mount on another directory", quoted(name), quoted(layer))
		}
	}
	return p, dir, nil
}

// owners says who new files belong to in a mount of directories.
func (m *mountOptions) owners() fusefs.Owners {
	switch {
	case !m.given:
		return fusefs.OwnersByAccess
	case m.directories.SquashToRoot:
		return fusefs.OwnersRoot
	}
	return fusefs.OwnersMaker
}
