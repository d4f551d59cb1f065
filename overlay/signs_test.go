package overlay

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What says which layers there are is often rewritten in place, which brings no
// event but that it was written to.
func TestWhatDecidesIsWrittenInPlace(t *testing.T) {
	for _, tc := range []struct{ name, before, manifest, script string }{
		{"an archive", `mv one.tar user/apps/t.tar; touch rootfs.toml`, "rootfs.toml", `cat two.tar >user/apps/t.tar`},
		{"an archive behind a link", `ln -s ../../one.tar user/apps/t.tar; touch rootfs.toml`, "rootfs.toml", `cat two.tar >one.tar`},
		{"the base", `echo '[base]
source = "one.tar"' >rootfs.toml`, "rootfs.toml", `cat two.tar >one.tar`},
		{"another manifest", `echo '[base]
source = "one"' >other.toml`, "other.toml", `echo '[base]
source = "two"' >other.toml`},
		{"a manifest behind a link", `mkdir conf; echo '[base]
source = "one"' >conf/m.toml; ln -s conf/m.toml rootfs.toml`, "rootfs.toml", `echo '[base]
source = "two"' >conf/m.toml`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, "one/usr/one 1", "two/usr/two 2", "user/sysconfig/etc/c c", "user/apps/")
			in(t, p, `tar -C one -cf one.tar .; tar -C two -cf two.tar .; `+tc.before)
			p, err := Find(p.Root, filepath.Join(p.Root, tc.manifest))
			must(t, err)
			tree, _ := watched(t, p)
			if !shows(tree, "usr/one")() {
				t.Fatal("usr/one isn't shown")
			}
			in(t, p, tc.script)
			within(t, "usr/two", shows(tree, "usr/two"))
		})
	}
}

func TestBlocklistIsWrittenInPlace(t *testing.T) {
	p, _, err := findCheckout(t, "user/apps/a/Makefile", "", "")
	must(t, err)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	in(t, p, `mkdir -p out/bin .rootfs/packages/x86_64; touch out/bin/a config/app-blocklist.toml; ln -s ../../../out .rootfs/packages/x86_64/a`)
	tree, _ := watched(t, p)
	if !shows(tree, "bin/a")() {
		t.Fatal("bin/a isn't shown")
	}
	in(t, p, `echo 'blocked_apps = [ {name = "a"} ]' >config/app-blocklist.toml`)
	within(t, "bin/a goes", func() bool { return !shows(tree, "bin/a")() })
}

func TestOCILayoutIsWrittenInPlace(t *testing.T) {
	layout := ociDir(t, ociFiles(t, imageOf(t, "amd64", "one")))
	p := project(t, "rootfs.toml [base]|source = \""+layout+"\"|")
	tree, h := watched(t, p)
	files := ociFiles(t, imageOf(t, "amd64", "another"))
	for name, content := range files {
		if name != "index.json" {
			save(t, filepath.Join(layout, name), content)
		}
	}
	save(t, filepath.Join(layout, "index.json"), files["index.json"])
	within(t, "announced", func() bool { return h.name("os-release") })
	expect(t, tree, `os-release 100644 0:0 "another"`)
}

// An archive that is being written is left alone, and nothing is said of it.
func TestArchiveIsReadWhenItIsWhole(t *testing.T) {
	p := project(t, "one/usr/one 1", "user/apps/", "user/sysconfig/etc/c c")
	in(t, p, `tar -C one -cf one.tar .`)
	tree, h := watched(t, p)
	content, err := os.ReadFile(filepath.Join(p.Root, "one.tar"))
	must(t, err)
	f, err := os.Create(filepath.Join(p.Root, "user/apps/t.tar"))
	must(t, err)
	var longest time.Duration
	for last := time.Now(); len(content) > 0; last = time.Now() {
		_, err := f.Write(content[:512])
		must(t, err)
		content = content[512:]
		time.Sleep(20 * time.Millisecond)
		longest = max(longest, time.Since(last))
	}
	must(t, f.Close())
	within(t, "usr/one", shows(tree, "usr/one"))
	if n := h.logged("unpacking"); (n != 1 || h.logged("level=WARN") > 0) && longest < pollEvery/2 {
		t.Errorf("it was read %d times", n)
	}
}

func TestLayersThroughLinksAreLive(t *testing.T) {
	for _, tc := range []struct {
		name   string
		lines  []string
		script string
		want   string
	}{
		{
			"the tree behind a result is replaced",
			[]string{"build/r/usr/one 1", "build/new/usr/two 2", "user/apps/r/result ->../../../build/r"},
			`mv build/r build/old; mv build/new build/r`, "usr/two",
		},
		{
			"the tree behind a result is built anew",
			[]string{"build/r/usr/one 1", "user/apps/r/result ->../../../build/r"},
			`rm -r build/r; sleep .2; mkdir -p build/r/usr; echo 2 >build/r/usr/two`, "usr/two",
		},
		{
			"a result leads to a link that is switched",
			[]string{"build/1/usr/one 1", "build/2/usr/two 2", "build/now ->1", "user/apps/r/result ->../../../build/now"},
			`ln -s 2 build/next; mv -T build/next build/now`, "usr/two",
		},
		{
			"the package's folder is a link",
			[]string{"one/usr/one 1", "two/usr/two 2", "ext/foo/result ->../../one", "user/apps/foo ->../../ext/foo"},
			`ln -s ../../two ext/foo/next; mv -T ext/foo/next ext/foo/result`, "usr/two",
		},
		{
			"the packages' folder is a link, and a package gets a directory",
			[]string{"pk/a/usr/one 1", "user/apps ->../pk"},
			`mkdir user/apps/a/opt`, "opt",
		},
		{
			"the packages' folder is a link, and a package gets a file",
			[]string{"pk/a/usr/one 1", "user/apps ->../pk"},
			`echo i >user/apps/a/init`, "init",
		},
		{
			"the packages' folder is a link, and a package comes",
			[]string{"pk/a/usr/one 1", "two/usr/two 2", "user/apps ->../pk"},
			`mv two pk/b`, "usr/two",
		},
		{
			"a result leads through a link that is switched",
			[]string{"../build/1/r/usr/one 1", "../build/2/r/usr/two 2", "../build/now ->1", "user/apps/r/result ->../../../../build/now/r"},
			`cd ..; ln -s 2 build/next; mv -T build/next build/now`, "usr/two",
		},
		{
			"a layer lies behind a link that is switched",
			[]string{"../build/1/r/usr/one 1", "../build/2/r/usr/two 2", "../build/now ->1", `rootfs.toml [[layer]]|source = "../build/now/r"|`},
			`cd ..; ln -s 2 build/next; mv -T build/next build/now`, "usr/two",
		},
		{
			"a folder that a layer lies in is replaced",
			[]string{"../build/r/usr/one 1", "../new/r/usr/two 2", `rootfs.toml [[layer]]|source = "../build/r"|`},
			`cd ..; mv build old; mv new build`, "usr/two",
		},
		{
			"a folder that a result leads through is built anew",
			[]string{"build/r/usr/one 1", "user/apps/r/result ->../../../build/r"},
			`rm -r build; sleep .2; mkdir -p new/r/usr; echo 2 >new/r/usr/two; mv new build`, "usr/two",
		},
		{
			"a folder above the configuration is a link",
			[]string{"u/sysconfig/usr/one 1", "two/usr/two 2", "user ->u"},
			`mv u/sysconfig old; mv two u/sysconfig`, "usr/two",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := project(t, append(tc.lines, "user/sysconfig/etc/c c")...)
			tree, _ := watched(t, p)
			if !shows(tree, "usr/one")() {
				t.Fatal("usr/one isn't shown")
			}
			in(t, p, tc.script)
			within(t, tc.want, shows(tree, tc.want))
		})
	}
}
