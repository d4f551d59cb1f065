package fat32

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// unfitTree has each thing that FAT can't hold, and what of it can be.
func unfitTree(t tb, folder string) (tr *tree, lost, kept []string) {
	tr = newTree(t, folder)
	add := func(e *overlay.Entry, reason string) {
		lost = append(lost, Loss{Path: e.Path, Reason: reason}.String())
	}
	keep := func(e *overlay.Entry) *overlay.Entry {
		kept = append(kept, line(e.Path, e.IsDir(), mtime-1, ""))
		return e
	}
	e := keep(tr.file("attributes", ""))
	e.Mode, e.UID, e.GID = unix.S_IFREG|0o4755, 1000, 4_000_000_000
	e.Xattrs = []overlay.Xattr{{Name: "security.capability"}, {Name: "user.x"}}
	add(e, "its owner is 1000:4000000000; FAT has no owners")
	add(e, "its mode is 04755; FAT has no set-id bits")
	add(e, "has the attribute security.capability; FAT has no extended attributes")
	add(e, "has the attribute user.x; FAT has no extended attributes")
	tr.symlink("link", "attributes").UID = 5 // whose owner nobody sees
	kept = append(kept, line("link", false, mtime-1, ""))

	keep(tr.dir("Case"))
	keep(tr.file("Case/x", ""))
	add(tr.dir("case"), `its name differs only in case from "Case"`)
	tr.file("case/y", "")
	keep(tr.file("GRÖSSE", ""))
	keep(tr.file("größe", "")) // ß is no case of SS
	add(tr.file("grösse", ""), `its name differs only in case from "GRÖSSE"`)
	keep(tr.file("pam.7.gz", ""))
	add(tr.add("PAM.7.gz", unix.S_IFSOCK|0o644), "a socket; FAT has files and directories only")
	for _, c := range forbidden {
		if c != '/' {
			add(tr.file(fmt.Sprintf("a%cb", c), ""), fmt.Sprintf("its name has %q, which FAT forbids", c))
		}
	}
	add(tr.file("dot.", ""), "its name ends in a space or a dot, which FAT readers drop")
	add(tr.dir("space "), "its name ends in a space or a dot, which FAT readers drop")
	keep(tr.file(strings.Repeat("😀", 127)+"x", ""))
	add(tr.file(strings.Repeat("😀", 128), ""), "its name has 256 UTF-16 units; FAT takes 255")
	add(tr.empty("huge", 4<<30), "has 4294967296 bytes; FAT takes 4294967295, one less than 4 GiB")
	add(tr.symlink("huge link", "huge"), "has 4294967296 bytes; FAT takes 4294967295, one less than 4 GiB")
	keep(tr.dir("dev"))
	add(tr.add("dev/char", unix.S_IFCHR), "a character device; FAT has files and directories only")
	add(tr.add("dev/block", unix.S_IFBLK), "a block device; FAT has files and directories only")
	add(tr.add("dev/fifo", unix.S_IFIFO), "a named pipe; FAT has files and directories only")
	add(tr.symlink("dev/null", "char"), "a character device; FAT has files and directories only")
	add(tr.file("a\nb", ""), `its name has '\n', which FAT forbids`)
	add(tr.file("\xff", ""), "its name is not valid UTF-8; FAT has names in UTF-16")
	return tr, lost, kept
}

// TestLosses: all losses are listed at once, and are all that is missing.
func TestLosses(t *testing.T) {
	tr, lost, kept := unfitTree(t, t.TempDir())
	_, err := tr.planner(Options{Size: 64 << 20}).Plan()
	var loss *LossError
	if !errors.As(err, &loss) {
		t.Fatalf("planned: %v", err)
	}
	same(t, sorted(listed(loss.Losses)), sorted(lost))
	if byPath := func(x, y Loss) int { return strings.Compare(x.Path, y.Path) }; !slices.IsSortedFunc(loss.Losses, byPath) {
		t.Error("not sorted by path")
	}
	if want := fmt.Sprintf("of %d losses, the first is %s", len(lost), loss.Losses[0]); !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want … %s", err, want)
	}
	for _, l := range loss.Losses {
		if l.Kept != (l.Path == "attributes") {
			t.Errorf("%v: kept is %t", l, l.Kept)
		}
	}

	need(t, "fsckfat")
	need(t, "mtools")
	image, losses := tr.image(t.TempDir(), Options{Size: 64 << 20, Lossy: true})
	same(t, sorted(listed(losses)), lost)
	fsck(t, image)
	same(t, lines(t, image, t.TempDir()), sorted(kept))
}

// TestFullDirectory: a directory takes 65,536 records, and what is beyond is
// a loss.
func TestFullDirectory(t *testing.T) {
	tr := newTree(t, t.TempDir())
	tr.dir("d")
	content := hostFile("/dev/null")
	for i := range 100_000 {
		e := tr.add(fmt.Sprintf("d/%08d", i), unix.S_IFREG|0o644)
		e.Content = content
	}
	image, losses := tr.image(t.TempDir(), Options{Size: 64 << 20, Lossy: true})
	if want := 100_000 - (maxRecords - 2); len(losses) != want {
		t.Fatalf("%d losses, want %d", len(losses), want)
	}
	if got, want := losses[0].String(), "d/00065534: its directory is full: FAT takes 65536 records of 32 bytes, this needs 1 more"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	need(t, "fsckfat")
	fsck(t, image)
}

// TestManyCopies: links that double a tree at each step end in an error.
func TestManyCopies(t *testing.T) {
	tr := newTree(t, t.TempDir())
	for i := range 30 {
		tr.dir(fmt.Sprintf("d%02d", i))
		if i > 0 {
			tr.symlink(fmt.Sprintf("d%02d/a", i), fmt.Sprintf("/d%02d", i-1))
			tr.symlink(fmt.Sprintf("d%02d/b", i), fmt.Sprintf("/d%02d", i-1))
		}
	}
	_, err := tr.planner(Options{}).Plan()
	if err == nil || !strings.Contains(err.Error(), "symlinks to directories copy more than") {
		t.Errorf("planned: %v", err)
	}
}
