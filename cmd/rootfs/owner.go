package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// actForOwner has what root makes for a project belong to the project's owner, who
// could else not mount, edit or export it afterwards. Root may do all that it
// could before; so may what it starts, which makes things for root as ever.
func actForOwner(p *overlay.Project) error {
	var st unix.Stat_t
	if os.Geteuid() != 0 || unix.Stat(p.Root, &st) != nil || st.Uid == 0 {
		return nil
	}
	// Root of a container may lack them.
	powers := cap.GetProc()
	for _, needed := range []cap.Value{cap.SETUID, cap.SETGID} {
		if has, err := powers.GetFlag(cap.Effective, needed); err != nil || !has {
			return err
		}
	}
	// They return what was before, and no error.
	_, _, _ = psx.Syscall3(unix.SYS_SETFSGID, uintptr(st.Gid), 0, 0)
	_, _, _ = psx.Syscall3(unix.SYS_SETFSUID, uintptr(st.Uid), 0, 0)
	// What of them concerns files went (capabilities(7), "Effect of user ID changes
	// on capabilities").
	if err := powers.SetProc(); err != nil {
		return fmt.Errorf("act for the owner of %s: %w", p.Root, err)
	}
	return nil
}
