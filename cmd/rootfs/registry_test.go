package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// startRegistry starts Debian's docker-registry on a free port and returns
// where it listens.
func startRegistry(t *testing.T) (host string) {
	t.Helper()
	need(t, "registry")
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: '127.0.0.1:0'}\n", filepath.Join(dir, "data"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		listening := regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				said <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	select {
	case host = <-said:
	case <-time.After(10 * time.Second):
		t.Fatal("the registry doesn't say where it listens")
	}
	return host
}

// elsewhere makes what follows the work of somebody with another home.
func elsewhere(t *testing.T) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
}

func TestTeamBuildsOnce(t *testing.T) {
	host := startRegistry(t)
	repo := host + "/team/cache"
	states := func(out string) string {
		return strings.Join(regexp.MustCompile(`(?m)^\w+`).FindAllString(out, -1), " ")
	}
	wantStates := func(who, out, want string) {
		t.Helper()
		if got := states(out); got != want {
			t.Errorf("%s: %q, want %q", who, got, want)
		}
	}
	elsewhere(t)
	first := layProject(t, greeting)
	wantStates("read only", rootfs(t, first, "build", "--cache", repo, "--cache-read-only"), "built built")
	wantStates("first", rootfs(t, first, "build", "--force", "--cache", repo), "built built")

	elsewhere(t)
	second := layProject(t, "-- rootfs.toml --\n[build]\ncache = \""+repo+"\"\n"+greeting)
	wantStates("named by the manifest", rootfs(t, second, "build", "greet"), "fetched")
	wantStates("the flag wins", rootfs(t, second, "build", "--cache="), "built")

	elsewhere(t)
	third := layProject(t, greeting)
	t.Setenv("ROOTFS_CACHE", repo)
	rootfs(t, third, "export", "--tar", "third.tar")
	if out := rootfs(t, third, "--json", "build", "--force", "--cache", "localhost:1/x"); strings.Count(out, `"state":"built"`) != 2 {
		t.Errorf("a cache that isn't there: %s", out)
	}
	fourth := layProject(t, greeting)
	if out := rootfs(t, fourth, "--json", "build"); strings.Count(out, `"state":"fetched"`) != 2 {
		t.Errorf("named by the environment: %s", out)
	}
	sh(t, fourth, `code=0; rootfs build --cache Not/A/Repository:1 2>err || code=$?; [ $code = 1 ] && grep -q 'give HOST/NAME, without a tag' err`)
}

// What is pushed is what is pulled elsewhere, and an edit sends one layer.
func TestPushAndPull(t *testing.T) {
	ref := startRegistry(t) + "/team/os:1"
	elsewhere(t)
	project := layProject(t, greeting+"-- user/sysconfig/etc/issue --\nissue\n")
	if out := rootfs(t, project, "push", ref); strings.Count(out, " sent\n") != 2 {
		t.Errorf("first push: %s", out)
	}
	sh(t, project, `rootfs -q node etc/pipe p`)
	out := rootfs(t, project, "push", ref)
	if strings.Count(out, " sent\n") != 1 || strings.Count(out, " there already\n") != 2 {
		t.Errorf("push after an edit: %s", out)
	}
	digest := out[strings.LastIndex(out, "@")+1:]
	rootfs(t, project, "export", "--tar", "os.tar")

	elsewhere(t)
	other := t.TempDir()
	if out := rootfs(t, other, "pull", ref); !strings.Contains(out, strings.TrimSpace(digest)) {
		t.Errorf("pulled %s, pushed %s", out, digest)
	}
	rootfs(t, other, "export", "--tar", "os.tar")
	sh(t, other, `cmp os.tar "$1/os.tar"`, project)
}
