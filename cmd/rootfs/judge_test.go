//go:build judge

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Random operations on our mount and on the kernel's overlayfs over the same
// layers: each says the same, and the trees are the same, also after mounting
// again. ROOTFS_PROPERTY_CHECKS sets how many sequences are drawn (rapid's own
// -rapid.checks too).

// judgedSteps is how many operations a sequence has.
const judgedSteps = 50

// judgedLayers are the lower layers: "low" below "high".
const judgedLayers = `
mkdir -p low/a/a low/a/b/c low/b low/d high/a/b high/c
printf 12345 >low/a/a/a; printf low >low/b/a; printf xyz >low/a/b/c/e; head -c 10000 /dev/zero >low/d/b
ln -s ../b/a low/a/d; mkfifo low/d/c; printf high >high/a/b/a; printf other >high/b; ln -s a high/c/b
truncate -s 70000 low/e; printf end >>low/e
find low high -exec touch -h -d @1000000000.123456789 {} +
`

func TestLikeTheKernelsOverlay(t *testing.T) {
	need(t, "root", "fuse")
	base := t.TempDir()
	sh(t, base, judgedLayers)
	if err := exec.Command("mount", "-t", "overlay", "probe", "-o",
		"lowerdir="+base+"/high:"+base+"/low", base).Run(); err != nil {
		t.Skip("SKIPPED: this machine lacks the kernel's overlayfs")
	}
	sh(t, ".", `umount "$1"`, base)
	rapid.Check(t, func(r *rapid.T) { judge(t, r, base) })
}

// onDescriptor matches operations on a held file itself.
var onDescriptor = regexp.MustCompile(`^(?:f[a-z]+|write|copy) fd([0-9])\b`)

func judge(t *testing.T, r *rapid.T, base string) {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		r.Fatal(err)
	}
	project := filepath.Join(dir, "project")
	sh(t, dir, `mkdir -p project/mnt project/user up work kernel
		cp -a "$1/low" project/user/sysconfig; cp -a "$1/high" project/high
		printf '[[layer]]\nname = "high"\nsource = "high"\n' >project/rootfs.toml
		touch -d @1000000000.123456789 up; mount -t overlay judged -o index=on,redirect_dir=on,metacopy=off,lowerdir="$1/high:$1/low",upperdir=up,workdir=work kernel`, base)
	defer sh(t, dir, `umount kernel`)
	rootfs(t, project, "mount", "mnt", "-o", "allow_other,dev,suid")
	mounted := true
	defer func() {
		if mounted {
			rootfs(t, project, "umount", "mnt")
		}
	}()
	began := time.Now().Add(-time.Second)
	ours, theirs := newSide(filepath.Join(project, "mnt"), began), newSide(filepath.Join(dir, "kernel"), began)
	defer ours.close()
	defer theirs.close()
	var log []string
	for range judgedSteps {
		d := &drawer{t: r, paths: []string{"."}, dirs: []string{"."}}
		if err := theirs.walk(".", func(rel string, st *unix.Stat_t) error {
			d.paths = append(d.paths, rel)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				d.dirs = append(d.dirs, rel)
			}
			return nil
		}); err != nil {
			r.Fatal(err)
		}
		o := d.operation()
		log = append(log, o.text)
		a, b := o.on(ours), o.on(theirs)
		if slot := onDescriptor.FindStringSubmatch(o.text); slot != nil && b == "EEXIST" {
			// A call on a descriptor can't mean it: the kernel stumbles over its
			// own index when it copies up an unlinked file. The two files go
			// separate ways from here.
			ours.drop(int(slot[1][0] - '0'))
			theirs.drop(int(slot[1][0] - '0'))
			continue
		}
		if a != b {
			r.Fatalf("%s\nours:   %s\nkernel: %s", strings.Join(log, "\n"), a, b)
		}
	}
	ours.close()
	theirs.close()
	sameTrees(r, ours, theirs, log)
	rootfs(t, project, "umount", "mnt")
	mounted = false
	rootfs(t, project, "mount", "mnt", "-o", "allow_other,dev,suid")
	mounted = true
	sameTrees(r, ours, theirs, append(log, "mounted again"))
}

func sameTrees(r *rapid.T, ours, theirs *side, log []string) {
	a, err := ours.tree()
	if err != nil {
		r.Fatalf("%s\nours: %v", strings.Join(log, "\n"), err)
	}
	b, err := theirs.tree()
	if err != nil {
		r.Fatal(err)
	}
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			r.Fatalf("%s\nours:   %s\nkernel: %s", strings.Join(log, "\n"),
				strings.Join(slices.Clone(a[min(i, len(a)):]), "\n        "), strings.Join(slices.Clone(b[min(i, len(b)):]), "\n        "))
		}
	}
}
