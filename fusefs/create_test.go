package fusefs

import (
	"log/slog"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// unmounted makes a filesystem of a project that no kernel asks.
func unmounted(t *testing.T, dir string) *filesystem {
	t.Helper()
	p, err := overlay.Find(dir, "")
	check(t, "find", err)
	tree, err := overlay.Open(p, overlay.Options{})
	check(t, "open", err)
	t.Cleanup(func() { check(t, "close", tree.Close()) })
	return &filesystem{tree: tree, nodes: newNodes(tree.Root(), tree.Release), log: slog.New(slog.DiscardHandler)}
}

// The kernel may take a file for absent that a layer has just got.
func TestCreateOfAFileThatIsThere(t *testing.T) {
	f := unmounted(t, project(t, map[string]string{"etc/passwd": "root\n"}))
	var etc fuse.EntryOut
	if st := f.Lookup(nil, &fuse.InHeader{NodeId: rootID}, "etc", &etc); st != fuse.OK {
		t.Fatal(st)
	}
	in := &fuse.MknodIn{InHeader: fuse.InHeader{NodeId: etc.NodeId}, Mode: unix.S_IFREG | 0o644}
	if st := f.Mknod(nil, in, "passwd", new(fuse.EntryOut)); st != stale {
		t.Errorf("%v, want %v, so that it looks again", st, stale)
	}
}
