package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// capabilities tells what a test may need and whether this machine has it.
var capabilities = map[string]func() bool{
	"root": func() bool { return os.Geteuid() == 0 },
	"fuse": func() bool { return isCharDevice("/dev/fuse") && found("fusermount3") },
	"fuseusers": func() bool {
		st, err := os.Stat("/dev/fuse")
		return err == nil && st.Mode()&0o6 == 0o6 && found("fusermount3")
	},
	"loop": func() bool { return os.Geteuid() == 0 && isCharDevice("/dev/loop-control") },
	"busybox": func() bool {
		return found("busybox") && exec.Command("sh", "-c", `! ldd "$(command -v busybox)"`).Run() == nil
	},
	"seccomp":   canSupervise,
	"fsck":      func() bool { return found("e2fsck") },
	"overlayfs": kernelOverlay,
	"cc":        func() bool { return found("gcc") && found("make") },
	"go":        func() bool { return found("go") },
	"musl":      func() bool { return found("x86_64-linux-musl-gcc") },
	"git":       func() bool { return found("git") },
	"registry":  func() bool { return found("docker-registry") },
	"rsync":     func() bool { return found("rsync") },
	"python3":   func() bool { return found("python3") },
	"skopeo":    func() bool { return found("skopeo") },
	"vim":       func() bool { return found("vim.tiny") },
	"xattr":     func() bool { return found("setfattr") },
	"debian":    func() bool { return debianTar() != "" },
}

// lack says what is missing for a test, "" if nothing is. Where
// ROOTFS_TEST_REQUIRE names it, the test may not be skipped: an error.
func lack(capability string) (string, error) {
	has, ok := capabilities[capability]
	if !ok {
		return "", fmt.Errorf("%q is no capability that a test can ask for", capability)
	}
	if has() {
		return "", nil
	}
	required := strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ",")
	if slices.Contains(required, capability) || slices.Contains(required, "all") {
		return "", fmt.Errorf("this machine lacks %q, which ROOTFS_TEST_REQUIRE demands", capability)
	}
	return fmt.Sprintf("SKIPPED: this machine lacks %q", capability), nil
}

func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		missing, err := lack(name)
		if err != nil {
			t.Fatal(err)
		}
		if missing != "" {
			t.Skip(missing)
		}
	}
}

func found(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

func isCharDevice(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// kernelOverlay tells whether the kernel has overlayfs; mounting it needs root,
// which a test asks for besides.
func kernelOverlay() bool {
	known, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(known), "\toverlay\n")
}
