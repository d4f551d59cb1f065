package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// held is what a daemon keeps for the nodes that the kernel knows.
type held struct {
	heap                       uint64 // bytes
	descriptors, watches, used int    // used are chunks of the table
}

func (h held) String() string {
	return fmt.Sprintf("%d KiB of heap, %d descriptors, %d watches, %d chunks", h.heap>>10, h.descriptors, h.watches, h.used)
}

func holding(t *testing.T, ns *nodes) (h held) {
	t.Helper()
	runtime.GC()
	runtime.GC() // what was in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	h.heap = m.HeapAlloc
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	check(t, "fdinfo", err)
	h.descriptors = len(infos)
	for _, file := range infos {
		info, _ := os.ReadFile(file) // the one of the search is gone
		h.watches += bytes.Count(info, []byte("inotify wd"))
	}
	for _, holder := range *ns.chunks.Load() {
		if holder.Load() != nil {
			h.used++
		}
	}
	return h
}

// walk tells the table of all entries below dir, as a kernel hears of them, and
// returns their ids, the deepest last.
func walk(t *testing.T, tree *overlay.Tree, ns *nodes, dir *overlay.Node) (ids []uint64) {
	t.Helper()
	var names [128]overlay.DirEntry
	for cookie := uint64(0); ; {
		count, err := tree.ReadDir(dir, cookie, names[:])
		check(t, "readdir", err)
		for _, name := range names[:count] {
			var e overlay.Entry
			n, err := tree.Lookup(dir, name.Name, &e)
			check(t, "lookup", err)
			id, _ := ns.add(n)
			ids = append(ids, id)
			if name.Type == 0o040000 {
				ids = append(ids, walk(t, tree, ns, n)...)
			}
		}
		if count < len(names) {
			return ids
		}
		cookie = names[count-1].Cookie
	}
}

func TestForgottenNodesLeaveNothingBehind(t *testing.T) {
	const dirs, files = 50, 40
	contents := map[string]string{}
	for d := range dirs {
		for f := range files {
			contents[fmt.Sprintf("usr/d%d/f%d", d, f)] = ""
		}
	}
	p, err := overlay.Find(project(t, contents), "")
	check(t, "find", err)
	tree, err := overlay.Open(p, overlay.Options{})
	check(t, "open", err)
	t.Cleanup(func() { check(t, "close", tree.Close()) })
	tree.Watch(&announcer{kernel: new(heard)})
	ns := newNodes(tree.Root(), tree.Release)

	var names [8]overlay.DirEntry
	_, err = tree.ReadDir(tree.Root(), 0, names[:]) // its names and watch stay
	check(t, "readdir", err)
	before := holding(t, ns)
	ids := walk(t, tree, ns, tree.Root())
	full := holding(t, ns)
	for _, id := range ids { // parents first: children keep them in the tree
		ns.forget(id, 1)
	}
	after := holding(t, ns)
	report := strings.Join([]string{before.String(), full.String(), after.String()}, "; ")
	if full.used < dirs*files/chunkSize || full.watches < dirs || full.descriptors < before.descriptors+dirs || full.heap < before.heap+dirs*files*100 {
		t.Fatalf("the walk is too small to show anything: %s", report)
	}
	if after.used != before.used || after.watches != before.watches || after.descriptors > before.descriptors {
		t.Errorf("forgotten nodes are still held: %s", report)
	}
	if after.heap > before.heap+(full.heap-before.heap)/10 {
		t.Errorf("the heap keeps more than 10%% of them: %s", report)
	}
	t.Log(report)
}
