package overlay

import (
	"os"
	"path/filepath"
	"testing"
)

// A manifest is the same file wherever the program works.
func TestManifestIsAbsolute(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "user/sysconfig"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "other.toml"), nil, 0o644))
	t.Chdir(root)
	p, err := Find(".", "other.toml")
	must(t, err)
	if want := filepath.Join(root, "other.toml"); p.Manifest.File != want {
		t.Errorf("the manifest is %s, want %s", p.Manifest.File, want)
	}
	if got := p.Variant(); got != "x86_64-other" {
		t.Errorf("the variant is %s", got)
	}
	must(t, os.WriteFile(filepath.Join(root, ManifestName), []byte("arch = 'riscv64'"), 0o644))
	for manifest, want := range map[string]string{"": "riscv64", ManifestName: "riscv64", "user/../other.toml": "x86_64-other"} {
		p, err := Find(root, manifest)
		must(t, err)
		if got := p.Variant(); got != want {
			t.Errorf("%q: the variant is %s, want %s", manifest, got, want)
		}
	}
}

// And whichever way leads to it.
func TestManifestBehindALink(t *testing.T) {
	checkout, _, err := findCheckout(t, "config/rootfs-manifests/small.toml", "", "")
	must(t, err)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(checkout.Root, link))
	for manifest, want := range map[string]string{
		"config/rootfs-manifests/default.toml": "x86_64",
		"config/rootfs-manifests/small.toml":   "x86_64-small",
	} {
		p, err := Find(link, filepath.Join(link, manifest))
		must(t, err)
		if got := p.Variant(); got != want || !p.IsCheckout() {
			t.Errorf("%s: the variant is %s, want %s", manifest, got, want)
		}
	}
}
