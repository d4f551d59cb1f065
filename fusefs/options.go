package fusefs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// words are the validated options of a mount, in the forms that mount(2) and
// fusermount3 take.
type words struct {
	source     string
	flags      uintptr // MS_*
	allowOther bool
	checked    bool // default_permissions
}

// mountFlags are the options that mount(2) takes as bits: those that it sets
// and those that it clears.
var mountFlags = map[string]struct{ set, clear uintptr }{
	"ro": {set: unix.MS_RDONLY}, "rw": {clear: unix.MS_RDONLY},
	"nodev": {set: unix.MS_NODEV}, "dev": {clear: unix.MS_NODEV},
	"nosuid": {set: unix.MS_NOSUID}, "suid": {clear: unix.MS_NOSUID},
	"noexec": {set: unix.MS_NOEXEC}, "exec": {clear: unix.MS_NOEXEC},
	"noatime": {set: unix.MS_NOATIME}, "atime": {clear: unix.MS_NOATIME},
	"nodiratime": {set: unix.MS_NODIRATIME}, "diratime": {clear: unix.MS_NODIRATIME},
	"sync": {set: unix.MS_SYNCHRONOUS}, "async": {clear: unix.MS_SYNCHRONOUS},
	"dirsync": {set: unix.MS_DIRSYNC},
}

func parseOptions(o *Options) (*words, error) {
	w := &words{
		source: o.FSName,
		// A tree's set-uid programs and device nodes are for the machine that
		// it becomes, not for the one that builds it; fusermount3 insists on
		// these for users.
		flags:      unix.MS_NODEV | unix.MS_NOSUID,
		allowOther: o.AllowOther,
	}
	if w.source == "" {
		w.source = fsType
	}
	for _, word := range o.Extra {
		f, ok := mountFlags[word]
		switch {
		case ok:
			w.flags = w.flags&^f.clear | f.set
		case word == "default_permissions":
			w.checked = true
		case word == "allow_other":
			w.allowOther = true
		default:
			return nil, fmt.Errorf("unknown option %q", word)
		}
	}
	// Only who mounted gets in, and is root inside: there is nothing for the
	// kernel to check. Its checks would cost a GETATTR of the directory after
	// each change of its names. Without them access(2) and chdir(2) ask us,
	// which a walk, tar, git or a compiler hardly do.
	if w.allowOther {
		w.checked = true
	}
	return w, nil
}

func (w *words) makersOwn(o *Options) bool {
	if o.Owners == OwnersByAccess {
		return w.allowOther
	}
	return o.Owners == OwnersMaker
}

// data returns the options that mount(2) and fusermount3 have in common.
func (w *words) data() []string {
	d := []string{fmt.Sprintf("max_read=%d", maxWrite)}
	if w.allowOther {
		d = append(d, "allow_other")
	}
	if w.checked {
		d = append(d, "default_permissions")
	}
	return d
}

// helper returns all options as fusermount3 takes them. It sets nodev and
// nosuid itself, and warns when a user asks for anything else.
func (w *words) helper() string {
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	list := append(w.data(), "subtype="+fsType, "fsname="+escape.Replace(w.source))
	for _, word := range []string{"ro", "dev", "suid", "noexec", "noatime", "sync", "dirsync"} {
		if f := mountFlags[word]; w.flags&f.set != f.set || w.flags&f.clear != 0 {
			continue
		}
		list = append(list, word)
	}
	return strings.Join(list, ",")
}
