package overlay

import (
	"archive/tar"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Whatever the bytes are, unpacking ends in a whole layer or an error, and
// writes nothing but the cache.
func FuzzUnpackArchive(f *testing.F) {
	// Small, since the fuzzer first tries to shorten what it finds.
	all := tarOf(f, aDir("a"), aFile("a/b", "content").with("user.a", "1", "trusted.b", "2"), aHardLink("c", "a/b"),
		tarEntry{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""})
	for _, compress := range compressions(f) {
		f.Add(compress(tarOf(f, aDir("a"), aFile("a/b", "content"), aLink("l", "../a"), aFile("l/x", ""))))
	}
	f.Add(all)
	f.Add(all[:len(all)/2])
	f.Add(tarOf(f, aFile("../../x", ""), aFile("/etc/x", ""), aLink("etc", "/"), aFile("etc/y", ""), aHardLink("z", "../../x")))
	f.Add(dockerArchive(f, threeLayers(f)))
	f.Add(ociTar(f, ociFiles(f, threeLayers(f)), "./"))
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		file := save(t, filepath.Join(dir, "archive"), content)
		cache := filepath.Join(dir, "cache")
		// A header can announce a hole of terabytes, which is honest work.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		layers, err := unpackArchive(ctx, file, cache, "", log)
		var want []string
		for _, layer := range layers {
			want = append(want, filepath.Base(filepath.Dir(layer)))
		}
		slices.Sort(want)
		if err != nil && layers != nil {
			t.Errorf("layers and an error: %v", err)
		}
		if got := names(t, filepath.Join(cache, "layers")); !slices.Equal(got, slices.Compact(want)) {
			t.Errorf("layers in the cache: %q, want %q (%v)", got, want, err)
		}
		if got := names(t, dir); len(got) > 2 {
			t.Errorf("written outside the cache: %q", got)
		}
	})
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
