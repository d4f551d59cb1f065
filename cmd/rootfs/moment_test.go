package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// moments is how many exports are made under writers.
func moments() int {
	if n, err := strconv.Atoi(os.Getenv("ROOTFS_PROPERTY_CHECKS")); err == nil {
		return n
	}
	return 10
}

// An export of a live mount is of one moment, while others write: b follows a,
// and x is in one of two directories, always.
func TestExportIsOfOneMoment(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, `
-- user/sysconfig/d1/x --
-- user/sysconfig/d2/y --
-- user/sysconfig/lower/deep/file --
`)
	mnt, _ := mountProject(t, project)
	sh(t, mnt, `echo 0 >a; echo 0 >b`)
	writer := exec.Command("sh", "-euc", `i=0; while ! test -e stop; do
		i=$((i+1)); echo $i >t; mv t a; echo $i >t; mv t b
		mv d1/x d2/x; mv d2/x d1/x; mv lower lower2; mv lower2 lower
	done`)
	writer.Dir = mnt
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // not by a signal, which its children outlive
		sh(t, mnt, `: >stop`)
		_ = writer.Wait()
	}()
	for i := range moments() {
		rootfs(t, project, "export", "--tar", "out/layer.tar")
		seen := sh(t, project, `rm -rf u; mkdir u; tar -C u -xf out/layer.tar; cat u/a u/b; ls -d u/d?/x | wc -l; ls -d u/lower*/deep/file | wc -l`)
		f := strings.Fields(seen)
		a, _ := strconv.Atoi(f[0])
		b, _ := strconv.Atoi(f[1])
		if len(f) != 4 || a-b < 0 || a-b > 1 || f[2] != "1" || f[3] != "1" {
			t.Fatalf("export %d: a, b, places of x, places of the tree: %v", i, f)
		}
	}
}

// An export goes on and succeeds when its mount ends, or another takes its place.
func TestExportOutlivesItsMount(t *testing.T) {
	need(t, "fuse")
	for _, again := range []bool{false, true} {
		project := layProject(t, `
-- user/sysconfig/etc/conf --
layer
`)
		mnt, umount := mountProject(t, project)
		sh(t, mnt, `echo one >etc/conf`)
		p, err := overlay.Find(project, "")
		if err != nil {
			t.Fatal(err)
		}
		m, err := openMoment(t.Context(), p, &export.Request{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		umount()
		if again {
			mnt, umount = mountProject(t, project)
			sh(t, mnt, `echo two >etc/conf`)
		}
		if text, err := m.tree.ReadFile("etc/conf"); err != nil || string(text) != "one\n" {
			t.Errorf("mounted again: %v, it reads %q, %v", again, text, err)
		}
		if err := m.close(); err != nil {
			t.Errorf("mounted again: %v, it ends with %v", again, err)
		}
		umount()
	}
}

// What a program wrote to a mapping is exported, and the file named.
func TestMappedFileIsExportedAndNamed(t *testing.T) {
	need(t, "fuse", "python3")
	for _, name := range []string{"lower", "two\nlines", `back\012slash`} {
		t.Run(name, func(t *testing.T) { exportMapped(t, name) })
	}
}

func exportMapped(t *testing.T, name string) {
	project := layProject(t, `
-- user/sysconfig/empty --
`)
	if err := os.WriteFile(filepath.Join(project, "user/sysconfig", name), []byte("0123456789\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mnt, _ := mountProject(t, project)
	writer := exec.Command("python3", "-c", `import mmap, sys, time
f = open(sys.argv[1], "r+b")
m = mmap.mmap(f.fileno(), 0)
m[0:6] = b"mapped"
print("ready", flush=True)
sys.stdin.read()`, name)
	writer.Dir = mnt
	stdin, err := writer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = writer.Wait()
	}()
	if _, err := fmt.Fscanln(stdout, new(string)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rootfs", "-C", project, "export", "--tar", "out/layer.tar")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := fmt.Sprintf("rootfs: warning: still open to be written, and exported as it is at this moment: %s (process %d)\n", quoted(filepath.Join(mnt, name)), writer.Process.Pid)
	if said := string(out); !strings.Contains(said, want) || strings.Count(said, "still open") != 1 {
		t.Errorf("said %q, want %q", out, want)
	}
	if got := sh(t, project, `tar -xOf out/layer.tar`); got != "mapped6789\n" {
		t.Errorf("exported %q", got)
	}
	// Where that won't do, nothing is written.
	cmd = exec.Command("rootfs", "-C", project, "export", "--strict", "--tar", "out/strict.tar")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "still open to be written: ") {
		t.Errorf("--strict: %v, %q", err, out)
	}
	if _, err := os.Stat(filepath.Join(project, "out/strict.tar")); err == nil {
		t.Error("--strict wrote")
	}
	if left := rootfs(t, project, "log"); left != "" {
		t.Errorf("the exports left checkpoints:\n%s", left)
	}
}

// The verbs, on a mount: what is restored shows at once.
func TestTimeTravel(t *testing.T) {
	need(t, "fuse")
	for _, mounted := range []bool{true, false} {
		project := layProject(t, `
-- user/sysconfig/etc/conf --
layer
-- user/sysconfig/etc/other --
`)
		mnt, umount := mountProject(t, project)
		sh(t, mnt, `echo one >etc/conf`)
		first := strings.TrimSpace(rootfs(t, project, "checkpoint", "first"))
		if again := strings.TrimSpace(rootfs(t, project, "checkpoint")); again != first {
			t.Errorf("nothing edited, and a checkpoint %s after %s", again, first)
		}
		sh(t, mnt, `echo two >etc/conf; rm etc/other; mkdir etc/new; cat etc/conf`)
		rootfs(t, project, "checkpoint", "second")
		log := rootfs(t, project, "log")
		if lines := strings.Split(log, "\n"); len(lines) != 3 || !strings.HasSuffix(lines[0], "second") || !strings.HasPrefix(lines[1], first) {
			t.Errorf("log:\n%s", log)
		}
		for _, step := range []struct{ restore, want string }{
			{"first /etc/conf", "conf:one\n"},
			{"second etc/conf", "conf:two\n"},
			{"/etc", "conf:layer\nother:\n"},
		} {
			if !mounted {
				umount()
			}
			rootfs(t, project, append([]string{"restore"}, strings.Fields(step.restore)...)...)
			if !mounted {
				mnt, umount = mountProject(t, project)
			}
			got := ""
			for end := time.Now().Add(time.Second); got != step.want && time.Now().Before(end); {
				got = sh(t, mnt, `cd etc; for f in conf other; do if test -e $f; then echo "$f:$(cat $f)"; fi; done`)
			}
			if got != step.want {
				t.Errorf("mounted %v, restore %s: %q, want %q", mounted, step.restore, got, step.want)
			}
		}
		umount()
	}
}

// The moment comes while the daemon answers. A file that is opened meanwhile is
// named, too, and each once.
func TestFileOpenedBeforeTheMomentIsNamed(t *testing.T) {
	p := &overlay.Project{Root: t.TempDir()}
	if err := p.MakeStateDir(); err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir() // as good as a mount
	write := func(name string) {
		writer := exec.Command("sh", "-c", `exec 3>`+name+`; echo ready; exec cat`)
		writer.Dir = mnt
		stdin, err := writer.StdinPipe()
		if err != nil {
			t.Error(err)
			return
		}
		stdout, err := writer.StdoutPipe()
		if err != nil {
			t.Error(err)
			return
		}
		if err := writer.Start(); err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() {
			_ = stdin.Close()
			_ = writer.Wait()
		})
		if _, err := fmt.Fscanln(stdout, new(string)); err != nil {
			t.Error(err)
		}
	}
	write("before")
	listener := listenAsDaemon(t, p)
	defer listener.Close() //nolint:errcheck // only a test's
	var answering sync.WaitGroup
	answering.Go(func() {
		for _, id := range []string{"0001", ""} { // freeze and thaw
			conn, err := listener.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			if id != "" {
				write("meanwhile")
			}
			_ = json.NewEncoder(conn).Encode(controlReply{Checkpoint: overlay.Checkpoint{ID: id}})
			_ = conn.Close()
		}
	})
	m := &moment{project: p, mount: &mountState{Mountpoint: mnt}}
	_, err := m.freeze(&export.Request{Strict: true})
	answering.Wait()
	if err == nil || strings.Count(err.Error(), "before") != 1 || strings.Count(err.Error(), "meanwhile") != 1 {
		t.Errorf("it says %v", err)
	}
}
