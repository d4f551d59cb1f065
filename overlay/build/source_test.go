package build

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fetched is a checkout with one package that comes from elsewhere, and what
// has been asked for it.
type fetched struct {
	*bench
	server *httptest.Server
	asked  atomic.Int32
	serve  func(w http.ResponseWriter)
}

// layFetched makes a checkout whose package p is an archive of a folder "top"
// with the file src in it.
func layFetched(t *testing.T) *fetched {
	t.Helper()
	f := &fetched{}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		f.asked.Add(1)
		f.serve(w)
	}))
	t.Cleanup(f.server.Close)
	archive := packed(t, `mkdir top; echo one >top/src; ln -s /etc outside`)
	f.serve = func(w http.ResponseWriter) { _, _ = w.Write(archive) }
	f.bench = layCheckout(t, map[string]string{
		"config/rootfs-manifests/default.toml": "",
		"user/dadk/config/p.toml":              "",
	})
	f.define("archive-rootdir = \"top\"")
	return f
}

// define writes the package file, with more keys for its source.
func (f *fetched) define(keys string) {
	text := dadk("p", "archive", f.server.URL+"/p.tar.gz", `cp src "$DADK_CURRENT_BUILD_DIR"`)
	f.write("user/dadk/config/p.toml", strings.Replace(text, "[build]", keys+"\n[build]", 1))
}

// packed returns a tar.gz of what a script makes.
func packed(t *testing.T, script string) []byte {
	t.Helper()
	cmd := exec.Command("sh", "-euc", "cd \"$1\"\n"+script+"\ntar -czf - .", "sh", t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantAsked compares how often the server was asked since the last time.
func (f *fetched) wantAsked(step string, want int32) {
	f.t.Helper()
	if got := f.asked.Swap(0); got != want {
		f.t.Errorf("%s: the server was asked %d times, want %d", step, got, want)
	}
}

func TestArchivesAreFetchedOnce(t *testing.T) {
	f := layFetched(t)
	f.want("first", f.build(), "p built")
	f.wantAsked("first", 1)
	f.want("again", f.build(), "p unchanged")
	f.wantAsked("again", 0)

	// Offline, what was fetched is enough, for another project too.
	f.server.Close()
	f.sh("rm -r .rootfs")
	f.want("without what was built", f.build(), "p built")
	f.sh("rm -r .rootfs; mkdir ../other; cp -r config user ../other")
	f.root = filepath.Join(filepath.Dir(f.root), "other")
	f.want("in another project", f.build(), "p built")
	if got := f.read("p/opt/src"); got != "one\n" {
		t.Errorf("it holds %q", got)
	}
}

// build-once is about the folder, not about where it comes from.
func TestBuildOnceOfAnotherSource(t *testing.T) {
	f := layFetched(t)
	f.define("archive-rootdir = \"top\"")
	once := func(from, to string) {
		text, err := os.ReadFile(filepath.Join(f.root, "user/dadk/config/p.toml"))
		if err != nil {
			t.Fatal(err)
		}
		f.write("user/dadk/config/p.toml", "build-once = true\n"+strings.Replace(string(text), from, to, 1))
	}
	once("", "")
	f.want("first", f.build(), "p built")
	f.sh("echo two >.rootfs/sources/p/src")
	f.want("the folder", f.build(), "p unchanged")
	f.define("archive-rootdir = \"top\"")
	once("/p.tar.gz", "/p-2.tar.gz")
	f.want("another archive", f.build(), "p built")
	f.want("again", f.build(), "p unchanged")
}

// A cached file that isn't what was fetched is not used.
func TestDamagedFetchIsRefused(t *testing.T) {
	f := layFetched(t)
	f.want("first", f.build(), "p built")
	f.wantAsked("first", 1)
	cached, err := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "rootfs/fetched/*[0-9a-f]"))
	if err != nil || len(cached) != 1 {
		t.Fatalf("cached: %v, %v", cached, err)
	}
	evil := packed(t, `mkdir top; echo evil >top/src`)
	if err := os.WriteFile(cached[0], evil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.sh("rm -r .rootfs")
	f.want("exchanged", f.build(), "p built")
	f.wantAsked("exchanged", 1)
	if got := f.read("p/opt/src"); got != "one\n" {
		t.Errorf("it holds %q", got)
	}
	if err := os.WriteFile(cached[0], evil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.server.Close()
	f.sh("rm -r .rootfs")
	f.want("exchanged, and no network", f.build(), "p failed")
	if f.err == nil || !strings.Contains(f.err.Error(), "/p.tar.gz: can't be fetched: ") || !strings.Contains(f.err.Error(), "it needs the network") {
		t.Errorf("error %v", f.err)
	}
}

// A server that falls silent holds up no build.
func TestFetchThatStalls(t *testing.T) {
	defer func(limit time.Duration) { stallLimit = limit }(stallLimit)
	stallLimit = 300 * time.Millisecond
	f := layFetched(t)
	good := f.serve
	end := make(chan struct{})
	stop := sync.OnceFunc(func() { close(end) })
	t.Cleanup(stop)
	time.AfterFunc(5*time.Second, stop)
	f.serve = func(w http.ResponseWriter) {
		_, _ = w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		<-end
	}
	start := time.Now()
	f.want("silent", f.build(), "p failed")
	if f.err == nil || !strings.Contains(f.err.Error(), "it broke off after 4 bytes: the server sends no more") || time.Since(start) > 4*time.Second {
		t.Errorf("after %v: %v", time.Since(start), f.err)
	}
	f.serve = good
	f.want("again", f.build(), "p built")
}

func TestFetchesThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(w http.ResponseWriter)
		keys  string
		want  string
	}{
		"not there": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, "", "the server says 404 Not Found"},
		"breaks off": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
		}, "", "it broke off after 1000 bytes"},
		"no archive":              {func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>log in</html>")) }, "", "can't be unpacked: tar: "},
		"no such folder":          {nil, `archive-rootdir = "nowhere"`, `has no folder "nowhere"`},
		"a folder that is a link": {nil, `archive-rootdir = "outside"`, `has no folder "outside"`},
		"a folder behind a link":  {nil, `archive-rootdir = "outside/ssl"`, `has no folder "outside/ssl"`},
	} {
		t.Run(name, func(t *testing.T) {
			f := layFetched(t)
			good := f.serve
			if c.serve != nil {
				f.serve = c.serve
			}
			if c.keys != "" {
				f.define(c.keys)
			}
			f.want("failing", f.build(), "p failed")
			if f.err == nil || !strings.Contains(f.err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", f.err, c.want)
			}
			left, _ := filepath.Glob(filepath.Join(f.root, ".rootfs/sources/*"))
			temp, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "rootfs/fetched/.fetch-*"))
			if len(left)+len(temp) > 0 {
				t.Errorf("left behind: %v %v", left, temp)
			}
			f.serve = good
			f.define(`archive-rootdir = "top"`)
			f.want("mended", f.build(), "p built")
		})
	}
}

func TestRepositoriesAreClonedOnce(t *testing.T) {
	_, err := exec.LookPath("git")
	need(t, "git", err == nil)
	b := layCheckout(t, map[string]string{"config/rootfs-manifests/default.toml": ""})
	repo := filepath.Join(t.TempDir(), "repo")
	b.sh(`git init -q -b master ` + repo + `; cd ` + repo + `
git config user.email a@b; git config user.name a
echo one >src; git add src; git commit -qm one; git tag one
echo two >src; git commit -qam two; git checkout -q -b side; echo side >src; git commit -qam side; git checkout -q master`)
	define := func(keys string) {
		text := dadk("p", "git", "file://"+repo, `cp src "$DADK_CURRENT_BUILD_DIR"`)
		b.write("user/dadk/config/p.toml", strings.Replace(text, "[build]", keys+"\n[build]", 1))
	}
	for _, c := range []struct{ keys, want string }{
		{"", "two\n"}, {`branch = "side"`, "side\n"}, {`revision = "one"`, "one\n"},
	} {
		define(c.keys)
		b.want(c.keys, b.build(), "p built")
		if got := b.read("p/opt/src"); got != c.want {
			t.Errorf("%s: it holds %q, want %q", c.keys, got, c.want)
		}
	}
	define(`revision = "nowhere"`)
	b.want("no such revision", b.build(), "p failed")
	if b.err == nil || !strings.Contains(b.err.Error(), "revision nowhere: git: ") {
		t.Errorf("error %v", b.err)
	}
	if got := b.read("p/opt/src"); got != "one\n" {
		t.Errorf("after a failure it holds %q", got)
	}
	define(`revision = "one"`)
	b.want("back", b.build(), "p unchanged")

	// Offline.
	b.sh("rm -rf " + repo)
	b.want("what was cloned stays", b.build(), "p unchanged")
	b.options.Force = true
	b.want("it can't be cloned anew", b.build(), "p failed")
	b.options.Force = false
	b.want("which changes nothing", b.build(), "p unchanged")
	define("")
	b.want("what wasn't can't be had", b.build(), "p failed")
	if b.err == nil || !strings.Contains(b.err.Error(), "file://"+repo+": can't be fetched: git: ") {
		t.Errorf("error %v", b.err)
	}
}

// In a hook, git's own variables say which repository is meant: not those that
// packages come from.
func TestHooksKeepTheirRepository(t *testing.T) {
	_, err := exec.LookPath("git")
	need(t, "git", err == nil)
	b := layCheckout(t, map[string]string{"config/rootfs-manifests/default.toml": "", "user/local/x.o": "old"})
	repo := filepath.Join(t.TempDir(), "repo")
	for _, dir := range []string{b.root, repo} {
		b.sh(`mkdir -p ` + dir + `; cd ` + dir + `; git init -q -b master; git config user.email a@b; git config user.name a
echo '*.o' >.gitignore; echo one >src; git add .; git commit -qm one; git tag one; echo two >src; git commit -qam two`)
	}
	text := dadk("p", "git", "file://"+repo, `cp src "$DADK_CURRENT_BUILD_DIR"`)
	b.write("user/dadk/config/p.toml", strings.Replace(text, "[build]", "revision = \"one\"\n[build]", 1))
	b.write("user/dadk/config/q.toml", dadk("q", "local", "user/local", `date +%N >x.o; cp x.o "$DADK_CURRENT_BUILD_DIR"`))
	t.Setenv("GIT_DIR", filepath.Join(b.root, ".git"))
	b.want("in a hook", b.build(), "p built, q built")
	if got := b.read("p/opt/src"); got != "one\n" {
		t.Errorf("it holds %q", got)
	}
	b.sh(`[ "$(git symbolic-ref HEAD)" = refs/heads/master ]`)
	b.want("again", b.build(), "p unchanged, q unchanged") // x.o is ignored, so no input
}
