package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A registry may take long to answer. Nothing keeps a signal from ending who waits
// for it, nor is anything left that waits on.
func TestWaitingForARegistryEnds(t *testing.T) {
	need(t, "fuse")
	registry, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err == nil {
		err = registry.SetDeadline(time.Now().Add(commandLimit))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close() //nolint:errcheck // nothing was written
	project := layProject(t, "-- rootfs.toml --\n"+fmt.Sprintf("[base]\nsource = %q\n", registry.Addr().String()+"/base:1"))
	const soon = 8 * time.Second // before a connection is given up by itself
	for _, verb := range []string{"export --tar out.tar", "sbom", "mount mnt", "mount -f mnt"} {
		t.Run(verb, func(t *testing.T) {
			cmd := exec.Command("rootfs", append([]string{"-C", project}, strings.Fields(verb)...)...)
			cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
			var said strings.Builder
			cmd.Stderr = &said
			cmd.WaitDelay = commandLimit
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			conn, err := registry.Accept()
			if err != nil {
				_ = cmd.Process.Kill()
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // nothing was written
			timer := time.AfterFunc(soon, func() { _ = cmd.Process.Kill() })
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if !timer.Stop() {
				t.Errorf("%s: had to be killed", verb)
			}
			// Who asks has the other end.
			_ = conn.SetReadDeadline(time.Now().Add(soon))
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("%s: something still waits for the registry: %v", verb, err)
			}
			if _, err := os.Lstat(filepath.Join(project, "out.tar")); err == nil {
				t.Errorf("%s: left an output", verb)
			}
			t.Logf("%s", said.String())
		})
	}
}

// Whatever a signal ends says so in the same word.
func TestInterruptedIsSaid(t *testing.T) {
	project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
	rootfs(t, project, "export", "--img", "disk.img")
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	for _, verb := range []string{"image check disk.img", "image diff disk.img", "sbom -o list"} {
		said, err := os.Create(filepath.Join(t.TempDir(), "said"))
		if err != nil {
			t.Fatal(err)
		}
		defer said.Close() //nolint:errcheck // only read
		t.Chdir(project)
		app := newApp(streams{out: said, err: said})
		ended := app.RunContext(ctx, append([]string{"rootfs"}, strings.Fields(verb)...))
		text, err := os.ReadFile(said.Name())
		if err != nil {
			t.Fatal(err)
		}
		if all := fmt.Sprintf("%s%v", text, ended); !strings.Contains(all, "interrupted") || strings.Contains(all, "cancel") {
			t.Errorf("%s: says %q", verb, all)
		}
	}
}
