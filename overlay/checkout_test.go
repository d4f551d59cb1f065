package overlay

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goodCheckout is a checkout with one package; each test changes something.
var goodCheckout = map[string]string{
	"config/rootfs-manifests/default.toml": `[metadata]
name = "default"
arch = "*"
[rootfs]
fs_type = "fat32"
size = "2G"
partition = "mbr"
[base]
image = ""
[user]
config_dir = "user/dadk/config"
`,
	"user/dadk/config/a.toml": `name = "a"
version = "1.0"
target-arch = ["x86_64"]
[task-source]
type = "build-from-source"
source = "local"
source-path = "user/apps/a"
[build]
build-command = "make install"
[install]
in-dragonos-path = "/bin"
`,
	"user/apps/a/Makefile": "",
}

// findCheckout lays a checkout, in which a line of a file is another where from
// isn't "", and reads it and its packages.
func findCheckout(t *testing.T, file, from, to string) (*Project, []Package, error) {
	t.Helper()
	for _, name := range []string{"ARCH", "ROOTFS_MANIFEST", "ROOTFS_BASE"} {
		if _, set := os.LookupEnv(name); set {
			t.Setenv(name, "")
		}
	}
	files := maps.Clone(goodCheckout)
	if from != "" && !strings.Contains(files[file], from) {
		t.Fatalf("%s has no %q", file, from)
	}
	files[file] = strings.Replace(files[file], from, to, 1)
	root := t.TempDir()
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	p, err := Find(root, "")
	if err != nil {
		return nil, nil, err
	}
	pkgs, err := p.Packages()
	return p, pkgs, err
}

func TestCheckoutIsRead(t *testing.T) {
	p, pkgs, err := findCheckout(t, "user/apps/a/Makefile", "", "")
	if err != nil || len(pkgs) != 1 {
		t.Fatal(pkgs, err)
	}
	if image := p.Manifest.Image; image.Filesystem != "vfat" || image.Partition != "mbr" || image.Size != "2G" || p.Manifest.Arch != "x86_64" {
		t.Errorf("the manifest: %+v, %s", image, p.Manifest.Arch)
	}
	r := pkgs[0].Recipe
	if pkgs[0].Path != filepath.Join(p.Root, "user/apps/a") || r.Path != "bin" || r.Version != "1.0" || strings.Join(r.Command, " ") != "bash -c make install" {
		t.Errorf("the package: %+v, %+v", pkgs[0], r)
	}
}

func TestWrongCheckoutsSayWhere(t *testing.T) {
	const manifest, pk, list = "config/rootfs-manifests/default.toml", "user/dadk/config/a.toml", "config/app-blocklist.toml"
	for name, c := range map[string]struct{ file, from, to, want string }{
		"no TOML":            {pk, `name = "a"`, `name = a`, "a.toml:1:8: "},
		"unknown key":        {pk, "target-arch", "target-arhc", `a.toml:3:1: unknown key "target-arhc"; did you mean "target-arch"?`},
		"no name":            {pk, `name = "a"`, ``, `a.toml: name is missing: give the package a name`},
		"a path as name":     {pk, `name = "a"`, `name = "../a"`, `a.toml:1:8: "../a": can't be a package's name`},
		"no architecture":    {pk, `target-arch = ["x86_64"]`, ``, `a.toml: target-arch is missing`},
		"odd architecture":   {pk, `["x86_64"]`, `["vax"]`, `a.toml:3:16: "vax": use one of x86_64, `},
		"odd type":           {pk, "build-from-source", "buy", `a.toml:5:8: "buy": use build-from-source or install-from-prebuilt`},
		"odd source":         {pk, `"local"`, `"attic"`, `a.toml:6:10: "attic": use one of local, archive, git`},
		"no source":          {pk, `source-path = "user/apps/a"`, ``, `a.toml: source-path is missing`},
		"a file as folder":   {pk, "user/apps/a", "user/apps/a/Makefile", `a.toml:7:15: "user/apps/a/Makefile": must be a folder`},
		"no address":         {pk, `"local"`, `"archive"`, `a.toml:7:15: "user/apps/a": must be an address that starts with http`},
		"an option as git":   {pk, "source = \"local\"\nsource-path = \"user/apps/a\"", "source = \"git\"\nsource-path = \"--upload-pack=x\"", `a.toml:7:1: source-path and branch or revision can't start with a dash`},
		"branch, revision":   {pk, "source = \"local\"", "source = \"git\"\nbranch = \"a\"\nrevision = \"b\"", `a.toml:8:1: revision excludes branch`},
		"no command":         {pk, "make install", " ", `a.toml:9:1: build-command is missing`},
		"prebuilt, command":  {pk, "build-from-source", "install-from-prebuilt", `a.toml:9:1: build-command belongs to packages that are built from source`},
		"a script":           {pk, "[build]\n", "[build]\npre-build = \"pre.sh\"\n", `a.toml:9:13: "pre.sh": scripts before and after a build aren't run: call it in build-command`},
		"a relative place":   {pk, `"/bin"`, `"bin"`, `a.toml:11:20: "bin": must be a path from the root, as "/bin"`},
		"an odd variable":    {pk, "[install]", "[[envs]]\nkey = \"A=\"\nvalue = \"\"\n[install]", `a.toml:11:7: "A=": can't be in an environment`},
		"no such dependency": {pk, "[install]", "[[depends]]\nname = \"b\"\nversion = \"1\"\n[install]", `a.toml:11:8: "b": there is no such package to depend on`},
		"two of a name":      {"user/dadk/config/b.toml", "", goodCheckout[pk], `a.toml and `},
		"odd filesystem":     {manifest, "fat32", "zfs", `default.toml:5:11: "zfs": use fat32 or ext4`},
		"odd table":          {manifest, "mbr", "bsd", `default.toml:7:13: "bsd": use one of mbr, gpt, none`},
		"odd size":           {manifest, `"2G"`, `"much"`, `default.toml:6:8: "much": is no size: write a number and K, M or G`},
		"no size":            {manifest, `"2G"`, `[]`, `default.toml:6:1: size must be a number of bytes or a text`},
		"no package files":   {manifest, "user/dadk/config", "user/dadk/set", `default.toml:11:14: "user/dadk/set": there is no such folder of package files`},
		"out of the tree":    {manifest, "user/dadk/config", "../config", `default.toml:11:14: "../config": there is no such folder of package files`},
		"blocked, no name":   {list, "", "blocked_apps = [ {reason = \"x\"} ]", `app-blocklist.toml:1:1: blocked_apps has an entry without a name`},
		"blocked, a pattern": {list, "", "blocked_apps = [ {name = \"[a]\"} ]", `app-blocklist.toml:1:26: "[a]": is no pattern`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := findCheckout(t, c.file, c.from, c.to); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %q in it", err, c.want)
			}
		})
	}
}

// A blocked package is left out, and what needs it is told of.
func TestBlockedPackages(t *testing.T) {
	const file = "config/app-blocklist.toml"
	for text, want := range map[string]int{
		`blocked_apps = [ {name = "a"} ]`:                       0,
		`blocked_apps = [ {name = "?@1.*"} ]`:                   0,
		`blocked_apps = [ {name = "a@2.0"} ]`:                   1,
		"strict = false\nblocked_apps = [ {name = \"a\"} ]":     1,
		"log_skipped = true\nblocked_apps = [ {name = \"b\"} ]": 1,
	} {
		if _, pkgs, err := findCheckout(t, file, "", text); err != nil || len(pkgs) != want {
			t.Errorf("%s: %d packages, %v", text, len(pkgs), err)
		}
	}
}

// Any text is a package that can be built, or a line that says what is wrong.
func FuzzPackageFile(f *testing.F) {
	f.Add(goodCheckout["user/dadk/config/a.toml"])
	f.Add(strings.NewReplacer("local", "git", "build-command", "pre-build").Replace(goodCheckout["user/dadk/config/a.toml"]))
	f.Add("name = 1")
	dir := f.TempDir()
	p := &Project{Root: dir, Manifest: defaultManifest()}
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(dir, "a.toml")
		must(t, os.WriteFile(file, []byte(text), 0o644))
		pk, err := p.readDADK(file)
		if err != nil {
			if !strings.HasPrefix(err.Error(), file+":") || strings.Contains(err.Error(), "\n") {
				t.Errorf("no line that names the file: %v", err)
			}
			return
		}
		if pk.Name == "" || len(pk.Recipe.Command) == 0 || strings.HasPrefix(pk.Recipe.Path, "/") || strings.HasPrefix(pk.Recipe.Path, "..") {
			t.Errorf("%q gives %+v, %+v", text, pk, pk.Recipe)
		}
	})
}
