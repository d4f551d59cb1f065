package export

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// testRegistry is a registry on this machine. meddle, unless nil, sees each
// request first, and true means that it has answered.
type testRegistry struct {
	host   string
	meddle func(w http.ResponseWriter, r *http.Request) bool
}

func startRegistry(t *testing.T) *testRegistry {
	t.Helper()
	reg := &testRegistry{}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reg.meddle == nil || !reg.meddle(w, r) {
			real.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	reg.host = strings.TrimPrefix(server.URL, "http://")
	return reg
}

// pushedProject has something in each part but edits.
func pushedProject(t *testing.T) *overlay.Project {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	root := t.TempDir()
	for name, content := range map[string]string{
		"rootfs.toml": "remove = ['/etc/motd']\n[base]\nsource = 'base'\n" +
			"[[file]]\npath = '/dev/null'\ntype = 'char'\nmajor = 1\nminor = 3\n" +
			"[[file]]\npath = '/usr/bin/tool'\nmode = '4755'\n",
		"base/etc/motd":               "base\n",
		"base/etc/issue":              "base\n",
		"base/usr/lib/os":             strings.Repeat("base ", 10000),
		"user/apps/tool/usr/bin/tool": "#!/bin/sh\n",
		"user/sysconfig/etc/issue":    "configured\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(root, "user/apps/tool/usr/bin/")
	if err := os.Link(bin+"/tool", bin+"/tool2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("usr/bin", filepath.Join(root, "base/bin")); err != nil {
		t.Fatal(err)
	}
	p, err := overlay.Find(root, "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// push sends the project and returns what was sent, as "base packages".
func push(ctx context.Context, t *testing.T, p *overlay.Project, ref string) (digest, sent string, err error) {
	t.Helper()
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, tree)
	r, err := Push(ctx, tree, ref, t.TempDir(), &Request{})
	if err != nil {
		return "", "", err
	}
	var names []string
	for _, l := range r.Layers {
		if l.Sent {
			names = append(names, l.Name)
		}
	}
	return r.Digest, strings.Join(names, " "), nil
}

func wantSent(t *testing.T, p *overlay.Project, ref, want string) (digest string) {
	t.Helper()
	digest, sent, err := push(context.Background(), t, p, ref)
	if err != nil {
		t.Fatal(err)
	}
	if sent != want {
		t.Errorf("sent %q, want %q", sent, want)
	}
	return digest
}

// edit changes the project's edits.
func edit(t *testing.T, p *overlay.Project, change func(tree *overlay.Tree) error) {
	t.Helper()
	tree, err := overlay.Open(p, overlay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, tree)
	if err := change(tree); err != nil {
		t.Fatal(err)
	}
}

func TestPushSendsOnlyWhatIsNew(t *testing.T) {
	reg, p := startRegistry(t), pushedProject(t)
	first := wantSent(t, p, reg.host+"/team/os:1", "base packages configuration")
	if again := wantSent(t, p, reg.host+"/team/os:1", ""); again != first {
		t.Errorf("the same project became %s, then %s", first, again)
	}
	edit(t, p, func(tree *overlay.Tree) error {
		return tree.MakeNode("/dev/zero", unix.S_IFCHR|0o666, unix.Mkdev(1, 5), overlay.Owner{})
	})
	wantSent(t, p, reg.host+"/team/os:2", "edits")
	if err := os.WriteFile(filepath.Join(p.Root, "user/sysconfig/etc/issue"), []byte("again\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, sent, err := push(context.Background(), t, p, reg.host+"/team/os:3")
	if err != nil || strings.Contains(sent, "base") || strings.Contains(sent, "packages") {
		t.Errorf("sent %q, %v, after a change of the configuration", sent, err)
	}
}

// A push that ended in the middle has sent what it has sent.
func TestPushGoesOn(t *testing.T) {
	reg, p := startRegistry(t), pushedProject(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var stored atomic.Int32
	reg.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		// A blob is stored by its PUT; the answer still goes out.
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/") {
			stored.Add(1)
		}
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			cancel()
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	if _, _, err := push(ctx, t, p, reg.host+"/team/os:1"); err == nil {
		t.Fatal("no error though it was cancelled")
	}
	if stored.Load() != 4 { // three layers and the configuration
		t.Fatalf("%d blobs were stored, want 4", stored.Load())
	}
	reg.meddle = nil
	wantSent(t, p, reg.host+"/team/os:1", "")
}

func TestPullGivesTheSameTree(t *testing.T) {
	reg, p := startRegistry(t), pushedProject(t)
	edit(t, p, func(tree *overlay.Tree) error {
		etc, err := tree.Lookup(tree.Root(), "etc", nil)
		if err != nil {
			return err
		}
		issue, err := tree.Lookup(etc, "issue", nil)
		if err != nil {
			return err
		}
		// A further name for a file of a layer below; another file is gone.
		if err := tree.Link(issue, etc, "issue.net"); err != nil {
			return err
		}
		usr, err := tree.Lookup(tree.Root(), "usr", nil)
		if err != nil {
			return err
		}
		lib, err := tree.Lookup(usr, "lib", nil)
		if err != nil {
			return err
		}
		return tree.Unlink(lib, "os")
	})
	ref := reg.host + "/team/os:1"
	digest := wantSent(t, p, ref, "base packages configuration edits")
	want := tarOf(t, p)

	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // another machine's
	other, err := overlay.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other.Registry = NewRegistry()
	if other, err = other.SetBase(context.Background(), ref); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tarOf(t, other), want) {
		t.Error("the pulled tree isn't the one that was pushed")
	}
	images, err := other.LockImages(context.Background())
	if err != nil || len(images) != 1 || images[0].Digest != digest {
		t.Errorf("locked %v, %v; want %s", images, err, digest)
	}
	wantPURL(t, other, "pkg:oci/os@"+url.QueryEscape(digest)+"?repository_url="+url.QueryEscape(reg.host+"/team/os"))
}

// The list of contents names the image that is shown, whatever its tag has come
// to mean, and asks no registry.
func TestContentsNameTheLockedImage(t *testing.T) {
	reg, p := startRegistry(t), pushedProject(t)
	ref := reg.host + "/team/os:1"
	digest := wantSent(t, p, ref, "base packages configuration")
	other, err := overlay.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other.Registry = NewRegistry()
	if other, err = other.SetBase(context.Background(), ref); err != nil {
		t.Fatal(err)
	}
	tarOf(t, other)
	locked, err := os.ReadFile(other.LockFile())
	if err != nil {
		t.Fatal(err)
	}
	edit(t, p, func(tree *overlay.Tree) error {
		return tree.MakeNode("/dev/zero", unix.S_IFCHR|0o666, unix.Mkdev(1, 5), overlay.Owner{})
	})
	wantSent(t, p, ref, "edits")
	reg.meddle = func(_ http.ResponseWriter, r *http.Request) bool {
		t.Errorf("the registry was asked: %s %s", r.Method, r.URL)
		return false
	}
	wantPURL(t, other, "pkg:oci/os@"+url.QueryEscape(digest)+"?repository_url="+url.QueryEscape(reg.host+"/team/os"))
	if now, err := os.ReadFile(other.LockFile()); err != nil || !bytes.Equal(now, locked) {
		t.Errorf("%s is %s, %v; it was %s", other.LockFile(), now, err, locked)
	}
}

// wantPURL checks which image the list of contents says is the base.
func wantPURL(t *testing.T, p *overlay.Project, want string) {
	t.Helper()
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, tree)
	var list bytes.Buffer
	if err := WriteSBOM(t.Context(), tree, &list, Document{"test", "test-1"}, &Request{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(list.String(), `"referenceLocator":"`+want+`"`) {
		t.Errorf("the list of contents doesn't say %s", want)
	}
}

// A new project is for the machine that its first image is for.
func TestPullTakesTheArchitecture(t *testing.T) {
	reg, p := startRegistry(t), pushedProject(t)
	p.Manifest.Arch = "riscv64"
	ref := reg.host + "/team/os:1"
	wantSent(t, p, ref, "base packages configuration")
	other, err := overlay.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other.Registry = NewRegistry()
	if other, err = other.SetBase(context.Background(), ref); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(other.Manifest.File)
	if want := "arch = \"riscv64\"\n\n[base]\nsource = \"" + ref + "\"\n"; err != nil || string(text) != want {
		t.Errorf("the manifest is %q, %v; want %q", text, err, want)
	}
}

func TestChooseImage(t *testing.T) {
	image := func(arch string) v1.Descriptor {
		return v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: arch}, Platform: &v1.Platform{OS: "linux", Architecture: arch}}
	}
	attestation := v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}
	plain := v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: "plain"}} // the platform is optional
	native := runtime.GOARCH
	for _, c := range []struct {
		images []v1.Descriptor
		arch   string
		want   string // "" for none
	}{
		{[]v1.Descriptor{image("amd64"), image("riscv64")}, "riscv64", "riscv64"},
		{[]v1.Descriptor{image("riscv64"), attestation}, "", "riscv64"},
		{[]v1.Descriptor{image("s390x"), image(native)}, "", native},
		{[]v1.Descriptor{image("s390x"), image("mips")}, "", ""},
		{[]v1.Descriptor{image("s390x")}, "riscv64", ""},
		{[]v1.Descriptor{plain}, "", "plain"},
		{[]v1.Descriptor{plain}, "riscv64", "plain"},
		{[]v1.Descriptor{plain, image("riscv64")}, "", "riscv64"},
		{[]v1.Descriptor{plain, plain}, "riscv64", ""},
		{[]v1.Descriptor{plain, image("riscv64")}, "riscv64", "riscv64"},
		{nil, "", ""},
	} {
		got, err := chooseImage(&v1.IndexManifest{Manifests: c.images}, c.arch)
		if got.Hex != c.want || (err == nil) != (c.want != "") {
			t.Errorf("for %q of %v: %q, %v; want %q", c.arch, c.images, got.Hex, err, c.want)
		}
	}
}

func tarOf(t *testing.T, p *overlay.Project) []byte {
	t.Helper()
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, tree)
	file := filepath.Join(t.TempDir(), "layer.tar")
	if _, err := Run(context.Background(), tree, &Request{Tar: file}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRegistryRefuses(t *testing.T) {
	reg, p := startRegistry(t), pushedProject(t)
	wantSent(t, p, reg.host+"/team/os:1", "base packages configuration")
	answer := func(part string, status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
				return false
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	for name, c := range map[string]struct {
		ref    string
		meddle func(http.ResponseWriter, *http.Request) bool
		err    string
	}{
		"blobs with another content": {"team/os:1", answer("/blobs/", http.StatusOK, "evil"), "team/os:1"},
		"a digest of nothing":        {"team/os@sha256:" + strings.Repeat("0", 64), nil, "MANIFEST_UNKNOWN"},
		"no such image":              {"team/other:1", nil, "NAME_UNKNOWN"},
		"a manifest with another content": {"team/os@sha256:" + strings.Repeat("0", 64), func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				_, _ = io.WriteString(w, "{}")
				return true
			}
			return false
		}, "does not match"},
		"who has not logged in": {"team/os:1", answer("/manifests/", http.StatusUnauthorized, ""), "docker login " + reg.host},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_CACHE_HOME", t.TempDir())
			reg.meddle = c.meddle
			defer func() { reg.meddle = nil }()
			root := t.TempDir()
			if err := os.WriteFile(filepath.Join(root, "rootfs.toml"), []byte("[base]\nsource = '"+reg.host+"/"+c.ref+"'\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			p, err := overlay.Find(root, "")
			if err != nil {
				t.Fatal(err)
			}
			p.Registry = NewRegistry()
			tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
			if err == nil {
				closeFile(t, tree)
			}
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v; want one with %q", err, c.err)
			}
		})
	}
}

func TestPushNeedsATag(t *testing.T) {
	p := pushedProject(t)
	for _, ref := range []string{"Upper/case:1", "a@sha256:" + strings.Repeat("0", 64), ""} {
		if _, _, err := push(context.Background(), t, p, ref); err == nil || !strings.Contains(err.Error(), "give HOST/NAME:TAG") {
			t.Errorf("%q: error %v", ref, err)
		}
	}
}
