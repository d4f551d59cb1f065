package export

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sbomRead is what the tests read of a document.
type sbomRead struct {
	Files    []listedFile
	Packages []struct {
		Name          string
		ID            string `json:"SPDXID"`
		FilesAnalyzed bool
		Code          struct {
			Value string `json:"packageVerificationCodeValue"`
		} `json:"packageVerificationCode"`
	}
	Relationships []struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	Namespace string `json:"documentNamespace"`
}

type listedFile struct {
	Name      string `json:"fileName"`
	ID        string `json:"SPDXID"`
	Comment   string
	Checksums []struct{ Algorithm, ChecksumValue string }
}

// manyFiles has enough files that several readers work ahead.
func manyFiles() []string {
	lines := []string{"etc/empty ", "etc/one =etc/empty", "link ->etc/empty", "odd\xff\nname x", "socket socket"}
	for i := range 2000 {
		lines = append(lines, fmt.Sprintf("many/%d/%d %s", i/100, i, strings.Repeat("content", i%100)))
	}
	return lines
}

// Each file is there once, in the order of the tree, with the digests of its
// bytes, in the package of its layer; the verification code is what §7.9 says.
func TestSBOM(t *testing.T) {
	tree := configTree(t, manyFiles()...)
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := WriteSBOM(t.Context(), tree, out, Document{"test", "test-1"}, &Request{}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two lists of one tree differ")
	}
	var doc sbomRead
	if err := json.Unmarshal(first.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Files) != 2005 {
		t.Errorf("%d files instead of 2005", len(doc.Files))
	}
	if !slices.IsSortedFunc(doc.Files, func(a, b listedFile) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the files aren't in order")
	}
	owner := make(map[string][]string)
	for _, r := range doc.Relationships {
		owner[r.To] = append(owner[r.To], r.From)
	}
	layer := doc.Packages[1]
	var sums []string
	for _, f := range doc.Files {
		content := listedContent(t, filepath.Join(tree.Project().Root, "user/sysconfig"), f)
		want := fmt.Sprintf("[{SHA1 %x} {SHA256 %x}]", sha1.Sum(content), sha256.Sum256(content))
		if got := fmt.Sprint(f.Checksums); got != want {
			t.Errorf("%s: %s, want %s", f.Name, got, want)
		}
		if got := owner[f.ID]; len(got) != 1 || got[0] != layer.ID {
			t.Errorf("%s is in %v instead of %s", f.Name, got, layer.ID)
		}
		sums = append(sums, fmt.Sprintf("%x", sha1.Sum(content)))
	}
	slices.Sort(sums)
	if want := fmt.Sprintf("%x", sha1.Sum([]byte(strings.Join(sums, "")))); layer.Code.Value != want {
		t.Errorf("verification code of %s: %s, want %s", layer.Name, layer.Code.Value, want)
	}
}

// listedContent is what a file's digests are of.
func listedContent(t *testing.T, dir string, f listedFile) []byte {
	t.Helper()
	switch f.Comment {
	case "socket":
		return nil
	case `symbolic link to "etc/empty"`:
		return []byte("etc/empty")
	case `the name is "odd\xff\nname"`:
		return []byte("x")
	}
	content, err := os.ReadFile(filepath.Join(dir, f.Name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// full is an output that takes only so many bytes.
type full int

var errFull = errors.New("no space")

func (f *full) Write(p []byte) (int, error) {
	if *f -= full(len(p)); *f < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// A list that can't be finished ends with the reason, and nobody goes on.
func TestSBOMFails(t *testing.T) {
	tree := configTree(t, manyFiles()...)
	for _, room := range []full{0, 100_000, 400_000} {
		if err := WriteSBOM(t.Context(), tree, &room, Document{"test", "test-1"}, &Request{}); !errors.Is(err, errFull) {
			t.Errorf("output is full: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteSBOM(ctx, tree, new(bytes.Buffer), Document{"test", "test-1"}, &Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
