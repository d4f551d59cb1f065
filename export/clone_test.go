package export

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/ext4"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// TestCloneBlocks: on a filesystem that shares blocks between files, an image
// shares the whole blocks of long files, has the same content as elsewhere,
// and keeps it when a file is overwritten later.
func TestCloneBlocks(t *testing.T) {
	folder := reflinkFolder(t)
	t.Run("disk", func(t *testing.T) { // whose temporary files are there
		t.Setenv("TMPDIR", folder)
		testCloneBlocks(t)
	})
}

func testCloneBlocks(t *testing.T) {
	const mib = 1 << 20
	data := bytes.Repeat([]byte("What is shared must stay as it is.\n"), mib/8)
	tr := newTree(t)
	for i, parts := range [][][]byte{
		{data[:4*mib]},
		{data[1:2]},
		{data[2 : 2*mib+101]},
		{data[3 : 3+mib], nil, data[4 : 4+2*mib]},
		{data[5:100_005]}, // not worth it
	} {
		tr.file(overlay.Entry{Path: fmt.Sprint(i)}, parts...)
	}
	const whole = (4 + 2 + 1 + 2) * mib
	tarred := tr.tar(t)

	planner, err := ext4.New(ext4.Options{Size: 64 * mib})
	if err != nil {
		t.Fatal(err)
	}
	name := writeDisk(t, PartitionMBR, tr, planner.Add, planner.Plan)
	disk := openImage(t, name)
	if got := sharedBytes(t, name); got != whole {
		t.Errorf("%d bytes of the image are shared with other files, want %d", got, whole)
	}
	if list := diff(t, disk, tarred); len(list) > 0 {
		t.Errorf("the image differs from the tar: %q", list)
	}

	for _, e := range tr.entries[1:] {
		if err := os.WriteFile(string(e.Content.(hostFile)), make([]byte, e.Size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unix.Sync()
	if list := diff(t, disk, tarred); len(list) > 0 {
		t.Errorf("the image changed with the files that it was made of: %q", list)
	}
}

// reflinkFolder mounts a new filesystem that can share blocks.
func reflinkFolder(t *testing.T) string {
	t.Helper()
	needRoot(t)
	needTool(t, "filefrag")
	image, folder := filepath.Join(t.TempDir(), "image"), t.TempDir()
	err := exec.Command("mkfs.xfs", "-q", "-m", "reflink=1", "-d", "name="+image+",file,size=512m").Run()
	need(t, "reflink", err == nil && exec.Command("mount", "-t", "xfs", "-o", "loop", image, folder).Run() == nil)
	t.Cleanup(func() { run(t, "umount", folder) })
	return folder
}

// sharedBytes tells how much of a file's data other files hold too.
func sharedBytes(t *testing.T, name string) int64 {
	t.Helper()
	var sum int64
	// number: first..last: first..last on the disk: blocks: …flags
	extent := regexp.MustCompile(`(?m)^ *\d+:(?: *\d+\.\. *\d+:){2} *(\d+):.*shared`)
	for _, m := range extent.FindAllStringSubmatch(run(t, "filefrag", "-v", "-b4096", name), -1) {
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n * 4096
	}
	return sum
}
