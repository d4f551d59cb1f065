package fusefs

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// owners turns the ids of the tree into those that the kernel is told, and
// back. Whoever mounts is root inside: an ordinary user sees what belongs to
// root as belonging to him, and what belongs to his number as root's, as in a
// user namespace. Otherwise the kernel would take him for a stranger: it lets
// nobody but the owner set an access list (cp -a, install) or remove a file of
// a directory with the sticky bit, and git refuses to work.
//
// The zero value changes nothing.
type owners struct{ uid, gid uint32 }

func ownersOf(uid, gid int) owners {
	if uid == 0 {
		return owners{}
	}
	return owners{uint32(uid), uint32(gid)}
}

// mounter is who runs this process, where who mounts is root inside.
func mounter(o *Options) owners {
	if o.Owners != OwnersByAccess {
		return owners{}
	}
	return ownersOf(os.Geteuid(), os.Getegid())
}

func swap(id, own uint32) uint32 {
	switch id {
	case 0:
		return own
	case own:
		return 0
	}
	return id
}

func (o owners) user(id uint32) uint32  { return swap(id, o.uid) }
func (o owners) group(id uint32) uint32 { return swap(id, o.gid) }

// owner is who a new file belongs to; see Owners.
func (f *filesystem) owner(in *fuse.InHeader, umask uint32) overlay.Owner {
	o := overlay.Owner{Umask: umask}
	if f.makers {
		o.UID, o.GID = f.owners.user(in.Uid), f.owners.group(in.Gid)
	}
	return o
}
