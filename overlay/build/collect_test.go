package build

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// collect runs Collect and says what went, as "outputs of packages 1".
func (b *bench) collect() string {
	b.t.Helper()
	p, err := overlay.Find(b.root, "")
	if err != nil {
		b.t.Fatal(err)
	}
	c := &overlay.Collector{Log: slog.New(slog.DiscardHandler)}
	if err := Collect(b.t.Context(), p, c); err != nil {
		b.t.Fatal(err)
	}
	var words []string
	for _, f := range c.Freed {
		words = append(words, fmt.Sprintf("%s %d", f.Kind, f.Count))
	}
	return strings.Join(words, ", ")
}

func TestCollectKeepsWhatIsShown(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "cp src $DESTDIR"`, "q": `command = "echo >$DESTDIR/q"`})
	for _, text := range []string{"one", "two", "three"} {
		b.write("user/apps/p/src", text)
		b.build()
	}
	b.want("what is shown stays", b.collect(), "outputs of packages 2")
	b.want("then", b.build(), "p unchanged, q unchanged")
	b.want("again", b.collect(), "")
	b.sh("mkdir .rootfs/staging/p .rootfs/outputs/x86_64/.gone-p-1; rm -r user/apps/q")
	b.want("a package and a build are gone", b.build(), "p unchanged")
	b.want("so", b.collect(), "outputs of packages 2, leftovers of builds 3")
	b.sh(`[ "$(ls .rootfs/builds .rootfs/logs .rootfs/packages/x86_64 | xargs)" = ".rootfs/builds: p .rootfs/logs: p.log .rootfs/packages/x86_64: p" ]`)
	b.want("what was removed is built again", func() string {
		b.write("user/apps/p/src", "one")
		return b.build()
	}(), "p built")
}

// What an export reads stays for as long as it does, however often its packages
// are built meanwhile.
func TestOutputsThatAreReadStay(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "cp src $DESTDIR"`})
	b.write("user/apps/p/src", "read")
	b.want("first", b.build(), "p built")
	p, err := overlay.Find(b.root, "")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range keep + 2 {
		b.write("user/apps/p/src", fmt.Sprint(i))
		b.want("meanwhile", b.build(), "p built")
	}
	if left := b.collect(); left != fmt.Sprintf("outputs of packages %d", keep-1) {
		t.Errorf("removed meanwhile: %s", left)
	}
	n, err := tree.Lookup(tree.Root(), "src", nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if got, err := tree.Read(n, buf, 0); string(buf[:got]) != "read" {
		t.Errorf("the tree that is open has %q, %v", buf[:got], err)
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	b.want("when it is closed", b.collect(), "outputs of packages 1")
}

// Going from one architecture or manifest to another and back builds nothing.
func TestVariantsKeepTheirOutputs(t *testing.T) {
	b := layCheckout(t, map[string]string{
		"config/rootfs-manifests/default.toml": "[user]\nconfig_dir = \"user/dadk/config/default\"\n",
		"config/rootfs-manifests/small.toml":   "[user]\nconfig_dir = \"user/dadk/config/small\"\n",
		"user/dadk/config/default/both.toml":   dadk("both", "local", "user/both", `cp src "$DADK_CURRENT_BUILD_DIR"`),
		"user/dadk/config/default/only.toml":   dadk("only", "local", "user/both", `cp src "$DADK_CURRENT_BUILD_DIR/only"`),
		"user/dadk/config/small/both.toml":     dadk("both", "local", "user/both", `cp src "$DADK_CURRENT_BUILD_DIR/small"`),
		"user/both/src":                        "src",
	})
	for _, c := range []struct{ step, manifest, arch, want string }{
		{"first", "", "", "both built, only built"},
		{"another manifest", "small", "", "both built"},
		{"another architecture", "", "riscv64", "both built"},
		{"back", "", "", "both unchanged, only unchanged"},
		{"and back", "small", "", "both unchanged"},
		{"and back", "", "riscv64", "both unchanged"},
	} {
		t.Setenv("ROOTFS_MANIFEST", c.manifest)
		t.Setenv("ARCH", c.arch)
		b.want(c.step, b.build(), c.want)
	}
	// A mount of another variant goes on.
	t.Setenv("ROOTFS_MANIFEST", "small")
	t.Setenv("ARCH", "")
	p, err := overlay.Find(b.root, "")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROOTFS_MANIFEST", "")
	t.Setenv("ARCH", "riscv64")
	b.want("all but what is shown", b.collect(), "leftovers of builds 3, outputs of packages 2")
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	b.want("all but what this variant shows", b.collect(), "leftovers of builds 1, outputs of packages 1")
	t.Setenv("ARCH", "")
	b.want("then", b.build(), "both built, only built")
}

// What a build makes anew for one variant is no reason to show something else in
// another.
func TestVariantsKeepToTheirOutputs(t *testing.T) {
	const recipe = `command = "date +%N >$DESTDIR/x"`
	b := lay(t, map[string]string{"a": recipe, "b": recipe, "c": recipe, "d": recipe, "e": recipe, "f": recipe})
	b.write("other.toml", "")
	of := func(manifest string) *overlay.Project {
		p, err := overlay.Find(b.root, manifest)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, manifest := range []string{"", filepath.Join(b.root, "other.toml")} {
		o := Options{Force: true, Observer: b, Logger: slog.New(slog.DiscardHandler)}
		if _, err := Run(t.Context(), of(manifest), o); err != nil {
			t.Fatal(err)
		}
	}
	b.want("then", b.build(), "a unchanged, b unchanged, c unchanged, d unchanged, e unchanged, f unchanged")
}

// layCheckout makes a DragonOS checkout of files.
func layCheckout(t *testing.T, files map[string]string) *bench {
	t.Helper()
	t.Setenv("ROOTFS_MANIFEST", "")
	t.Setenv("ARCH", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	b := lay(t, nil)
	for name, text := range files {
		b.write(name, text)
	}
	return b
}

// dadk is a package file of DADK. The package "only" is for x86_64 alone.
func dadk(name, source, path, command string) string {
	archs := `"x86_64", "riscv64"`
	if name == "only" {
		archs = `"x86_64"`
	}
	return fmt.Sprintf(`name = %q
version = "1"
target-arch = [%s]
[task-source]
type = "build-from-source"
source = %q
source-path = %q
[build]
build-command = '''%s'''
[install]
in-dragonos-path = "/opt"
`, name, archs, source, path, command)
}

func TestCollectWithoutBuilds(t *testing.T) {
	b := lay(t, nil)
	b.write("user/apps/p/usr/file", "")
	b.want("nothing was built", b.collect(), "")
	if _, err := os.Lstat(filepath.Join(b.root, ".rootfs")); err == nil {
		t.Error("there is a state folder now")
	}
}
