package export

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
	"github.com/DragonOS-Community/rootfs/overlay/build"
)

// machine is a checkout in somebody's home, with what its builds said.
type machine struct {
	t    *testing.T
	root string
	log  bytes.Buffer
}

// quiet is who isn't told how a build goes.
type quiet struct{}

func (quiet) Begin(string)     {}
func (quiet) End(build.Result) {}

// sharedRecipes are of packages with all that an output may hold.
var sharedRecipes = map[string]string{
	"lib/package.toml": `command = '''
umask 002
mkdir -p "$DESTDIR/usr/lib/empty" "$DESTDIR/usr/shut"
cat lib.c >"$DESTDIR/usr/lib/lib"
ln "$DESTDIR/usr/lib/lib" "$DESTDIR/usr/lib/lib.so"
ln -s ../../usr/lib/lib "$DESTDIR/usr/lib/link"
truncate -s 1M "$DESTDIR/usr/lib/sparse"
echo end >>"$DESTDIR/usr/lib/sparse"
mkfifo "$DESTDIR/usr/fifo"
chmod 4711 "$DESTDIR/usr/lib/lib"
chmod 0444 "$DESTDIR/usr/lib/sparse"
touch -h -d @1000.5 "$DESTDIR/usr/lib/link" "$DESTDIR/usr/lib/lib"
touch -d @-5 "$DESTDIR/usr/lib/empty"
chmod 0500 "$DESTDIR/usr/shut"
'''
env = { HERE = "${HOME}/bin:${PATH}" }`,
	"lib/lib.c": "lib\n",
	"prog/package.toml": `depends = ["lib"]
path = "/opt"
command = 'cat prog.c "$DEP_LIB/usr/lib/lib" >"$DESTDIR/prog"'`,
	"prog/prog.c": "prog\n",
}

// newMachine makes a checkout of sharedRecipes in a new home, with a umask.
func newMachine(t *testing.T, umask int) *machine {
	t.Helper()
	home := t.TempDir()
	m := &machine{t: t, root: filepath.Join(home, strings.Repeat("deep/", umask&7), "checkout")}
	m.home()
	defer unix.Umask(unix.Umask(umask))
	for name, text := range sharedRecipes {
		m.write(name, text)
	}
	return m
}

// home makes this the machine that the test works on.
func (m *machine) home() {
	home := filepath.Dir(m.root)
	m.t.Setenv("HOME", home)
	m.t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	m.t.Setenv("PATH", home+":"+os.Getenv("PATH"))
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	file := filepath.Join(m.root, "user/apps", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		m.t.Fatal(err)
	}
}

// build builds with the cache in a repository and returns what came of each
// package, as "lib built, prog built".
func (m *machine) build(repo string, change func(*build.Options)) string {
	m.t.Helper()
	m.home()
	p, err := overlay.Find(m.root, "")
	if err != nil {
		m.t.Fatal(err)
	}
	cache, err := NewPackageCache(repo, p.StateDir())
	if err != nil {
		m.t.Fatal(err)
	}
	m.log.Reset()
	o := build.Options{Cache: cache, Observer: quiet{}, Logger: slog.New(slog.NewTextHandler(&m.log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if change != nil {
		change(&o)
	}
	results, err := build.Run(context.Background(), p, o)
	if err != nil {
		m.t.Errorf("build: %v", err)
	}
	var states []string
	for _, r := range results {
		states = append(states, r.Name+" "+r.State.String())
	}
	slices.Sort(states)
	return strings.Join(states, ", ")
}

// want builds and compares; says is what must be said, "" for nothing.
func (m *machine) want(repo, want, says string) {
	m.t.Helper()
	if got := m.build(repo, nil); got != want {
		m.t.Errorf("%s, want %s", got, want)
	}
	if said := m.log.String(); !strings.Contains(said, says) || says == "" && said != "" || strings.Count(said, "\n") > 1 {
		m.t.Errorf("said %q, want %q in it, once", said, says)
	}
}

// outputs lists what the packages hold, a line each.
func (m *machine) outputs() []string {
	m.t.Helper()
	var lines []string
	for _, name := range []string{"lib", "prog"} {
		dir, err := filepath.EvalSymlinks(filepath.Join(m.root, ".rootfs/packages/x86_64", name))
		if err != nil {
			m.t.Fatal(err)
		}
		lines = append(append(lines, filepath.Base(dir)), linesOf(m.t, dir)...)
	}
	return lines
}

// One builds, all have it: the same files, wherever they work.
func TestPackagesAreBuiltOnce(t *testing.T) {
	repo := startRegistry(t).host + "/team/cache"
	first, second := newMachine(t, 0o022), newMachine(t, 0o077)
	first.want(repo, "lib built, prog built", "")
	first.want(repo, "lib unchanged, prog unchanged", "")
	second.want(repo, "lib fetched, prog fetched", "")
	equalLines(t, "fetched, not built", first.outputs(), second.outputs())
	second.want(repo, "lib unchanged, prog unchanged", "")

	// A change is built by whoever makes it.
	second.write("prog/prog.c", "other\n")
	second.want(repo, "lib unchanged, prog built", "")
	first.write("prog/prog.c", "other\n")
	first.want(repo, "lib unchanged, prog fetched", "")

	if got := second.build(repo, func(o *build.Options) { o.Force = true }); got != "lib built, prog built" {
		t.Errorf("forced: %s", got)
	}
}

func TestCacheThatIsOnlyRead(t *testing.T) {
	repo := startRegistry(t).host + "/team/cache"
	readOnly := func(o *build.Options) { o.CacheReadOnly = true }
	if got := newMachine(t, 0o022).build(repo, readOnly); got != "lib built, prog built" {
		t.Errorf("first: %s", got)
	}
	newMachine(t, 0o022).want(repo, "lib built, prog built", "")
	if got := newMachine(t, 0o022).build(repo, readOnly); got != "lib fetched, prog fetched" {
		t.Errorf("what is there: %s", got)
	}
}

// A cache that fails costs one warning, and nothing else.
func TestFailingCache(t *testing.T) {
	reg := startRegistry(t)
	repo := reg.host + "/team/cache"
	newMachine(t, 0o022).want(repo, "lib built, prog built", "")
	answer := func(methods, part string, status int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(methods, r.Method) || !strings.Contains(r.URL.Path, part) {
				return false
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "evil")
			return true
		}
	}
	for name, c := range map[string]struct {
		repo   string
		meddle func(http.ResponseWriter, *http.Request) bool
		says   string
	}{
		"nobody listens":        {"localhost:1/team/cache", nil, "the cache fails, so packages are built here and not shared: "},
		"who has not logged in": {repo, answer("GET", "/manifests/", http.StatusUnauthorized), "docker login " + reg.host},
		"takes nothing":         {reg.host + "/team/other", answer("POST PUT", "", http.StatusForbidden), "the cache fails"},
		"another manifest":      {repo, answer("GET", "/manifests/", http.StatusOK), "the cache fails"},
	} {
		t.Run(name, func(t *testing.T) {
			reg.meddle = c.meddle
			defer func() { reg.meddle = nil }()
			newMachine(t, 0o022).want(c.repo, "lib built, prog built", c.says)
		})
	}
}

// lying says that all content is another.
type lying struct{ build.Cache }

func (l lying) Get(ctx context.Context, key string, unpack func(io.Reader) error) (string, error) {
	_, err := l.Cache.Get(ctx, key, unpack)
	return strings.Repeat("0", 32), err
}

// What was damaged or exchanged in the registry is not taken, and made good.
func TestDamagedPackageIsBuilt(t *testing.T) {
	for name, c := range map[string]struct {
		meddle func(w http.ResponseWriter, r *http.Request) bool
		change func(o *build.Options)
		says   string
	}{
		"a blob that is another": {
			meddle: func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				z, err := zstd.NewWriter(w)
				if err != nil {
					return false
				}
				_, _ = z.Write(make([]byte, 10*tarBlock)) // an empty tar
				_ = z.Close()
				return true
			},
			says: "error verifying sha256 checksum",
		},
		"content that isn't what was put": {
			change: func(o *build.Options) { o.Cache = lying{o.Cache} },
			says:   "its content has the hash",
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := startRegistry(t)
			repo := reg.host + "/team/cache"
			newMachine(t, 0o022).want(repo, "lib built, prog built", "")
			reg.meddle = c.meddle
			m := newMachine(t, 0o022)
			if got := m.build(repo, c.change); got != "lib built, prog built" {
				t.Errorf("%s", got)
			}
			said := m.log.String()
			if strings.Count(said, "what the cache has can't be used, so it is built here") != 2 || !strings.Contains(said, c.says) {
				t.Errorf("said %q, want %q", said, c.says)
			}
			reg.meddle = nil
			newMachine(t, 0o022).want(repo, "lib fetched, prog fetched", "")
		})
	}
}

func TestCacheHasNoTag(t *testing.T) {
	if _, err := NewPackageCache("host/name:tag", ""); err == nil || !strings.Contains(err.Error(), "without a tag") {
		t.Errorf("error %v", err)
	}
}
