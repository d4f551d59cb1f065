package fusefs

import (
	"log/slog"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// The kernel may take a file for absent that a layer has just got.
func TestCreateOfAFileThatIsThere(t *testing.T) {
	p, err := overlay.Find(project(t, map[string]string{"etc/passwd": "root\n"}), "")
	check(t, "find", err)
	tree, err := overlay.Open(p, overlay.Options{})
	check(t, "open", err)
	t.Cleanup(func() { check(t, "close", tree.Close()) })
	f := &filesystem{tree: tree, nodes: newNodes(tree.Root(), tree.Release), log: slog.New(slog.DiscardHandler)}
	var etc fuse.EntryOut
	if st := f.Lookup(nil, &fuse.InHeader{NodeId: rootID}, "etc", &etc); st != fuse.OK {
		t.Fatal(st)
	}
	for flags, want := range map[uint32]syscall.Errno{
		unix.O_CREAT:               unix.ESTALE, // look again
		unix.O_CREAT | unix.O_EXCL: unix.EEXIST,
	} {
		in := &fuse.CreateIn{InHeader: fuse.InHeader{NodeId: etc.NodeId}, Flags: flags, Mode: 0o644}
		if st := f.Create(nil, in, "passwd", new(fuse.CreateOut)); st != fuse.Status(want) {
			t.Errorf("flags %#x: %v, want %v", flags, st, want)
		}
	}
}
