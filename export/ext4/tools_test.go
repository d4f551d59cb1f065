package ext4

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

// tb is what helpers need of a test, so that property tests can use them too.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// need skips a test where the machine lacks a capability, or fails it where
// ROOTFS_TEST_REQUIRE names the capability.
func need(t testing.TB, capability string) {
	t.Helper()
	missing := ""
	switch capability {
	case "root":
		if os.Getuid() != 0 {
			missing = "not root, which loop mounts need"
		} else if _, err := os.Stat("/dev/loop-control"); err != nil {
			missing = err.Error()
		}
	case "sysresource":
		if !hasCapability(unix.CAP_SYS_RESOURCE) {
			missing = "no CAP_SYS_RESOURCE, which growing a mounted filesystem needs"
		}
	case "fsck":
		for _, tool := range []string{"e2fsck", "dumpe2fs", "debugfs", "resize2fs"} {
			if _, err := exec.LookPath(tool); err != nil {
				missing = err.Error() + " (install e2fsprogs)"
			}
		}
	default:
		t.Fatalf("unknown capability %q", capability)
	}
	if missing == "" {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ","), capability) {
		t.Fatalf("%s is required: %s", capability, missing)
	}
	t.Skipf("SKIPPED, needs %s: %s", capability, missing)
}

// hasCapability tells whether this process has one of the kernel's capabilities.
func hasCapability(n int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[n/32].Effective&(1<<(n%32)) != 0
}

// runTool runs a tool that has to succeed and returns what it prints.
func runTool(t tb, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// fsck runs e2fsck, which has to say nothing but its passes and its summary.
func fsck(t tb, image string) {
	t.Helper()
	for line := range strings.Lines(runTool(t, "e2fsck", "-fn", image)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Pass ") || strings.HasPrefix(line, "e2fsck 1.") ||
			strings.Contains(line, "% non-contiguous), ") {
			continue
		}
		t.Fatalf("e2fsck says of %s: %s", image, line)
	}
}

// writeImage writes a plan to a file in dir.
func writeImage(t tb, dir string, p *plan.Plan) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "*.img")
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := p.WriteFile(context.Background(), f, nil); err != nil {
		t.Fatalf("write %s: %v", f.Name(), err)
	}
	if err := f.Close(); err != nil {
		t.Fatalf("%v", err)
	}
	return f.Name()
}

// mounted calls f with the folder where the image is mounted.
func mounted(t tb, image, options string, f func(root string)) {
	t.Helper()
	root, err := os.MkdirTemp(filepath.Dir(image), "mnt")
	if err != nil {
		t.Fatalf("%v", err)
	}
	runTool(t, "mount", "-t", "ext4", "-o", "loop,"+options, image, root)
	defer func() {
		runTool(t, "umount", root)
		if err := os.Remove(root); err != nil {
			t.Fatalf("%v", err)
		}
	}()
	f(root)
}

// superField reads a number of the superblock by the name that dumpe2fs gives
// it.
func superField(t tb, image, name string) string {
	t.Helper()
	for line := range strings.Lines(runTool(t, "dumpe2fs", "-h", image)) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("dumpe2fs shows no %q", name)
	return ""
}

// listXattrs returns the attributes of a file, a NUL after each name.
func listXattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return names, nil
}
