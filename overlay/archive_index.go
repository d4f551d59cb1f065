package overlay

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// imageIndex says where the members of an image's tar are. As blobs, it reads
// them from file.
type imageIndex struct {
	file       *os.File
	compressed bool // positions are of the uncompressed tar
	members    map[string]imageMember
}

// imageMember is a file, or a link to one: old versions of docker store a
// layer that occurs twice as a symlink.
type imageMember struct {
	at, size int64
	link     string // cleaned name of what it leads to
}

func (x *imageIndex) has(name string) bool {
	_, ok := x.members[name]
	return ok
}

func (x *imageIndex) open(name string) (io.ReadCloser, error) {
	at := path.Clean(name)
	for range 8 { // links of links; more is a loop
		m, ok := x.members[at]
		if !ok {
			return nil, fmt.Errorf("%s: %w in the archive", name, fs.ErrNotExist)
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(x.file, m.at, m.size)), nil
		}
		at = m.link
	}
	return nil, fmt.Errorf("%s: too many links in the archive", name)
}

// indexImage reads the tar in f to its end when it is a docker archive or an
// OCI layout, and nearly nothing when it is a root filesystem: the first name
// that no image has decides. nil is the latter.
func indexImage(ctx context.Context, f *os.File) (*imageIndex, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var start [8]byte
	n, err := f.ReadAt(start[:], 0)
	if n == 0 {
		if errors.Is(err, io.EOF) {
			err = errors.New("empty file, where a tar was expected")
		}
		return nil, err
	}
	x := &imageIndex{compressed: isCompressed(start[:n]), members: map[string]imageMember{}}
	// An uncompressed tar is read with seeks over the contents, and f then
	// stands at the start of each.
	var src io.Reader = f
	if x.compressed {
		z, err := decompress(f)
		if err != nil {
			return nil, err
		}
		defer closeRead(z)
		src = z
	}
	r := tar.NewReader(src)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if len(x.members) == 0 {
				return nil, fmt.Errorf("not a tar, or damaged at its start: %w", err)
			}
			return nil, err
		}
		if isNoEntry(h) {
			continue
		}
		name := cleanName(h.Name)
		if !isImageName(name) {
			return nil, nil
		}
		if err := x.add(name, h, f); err != nil {
			return nil, err
		}
	}
	if x.has(dockerManifest) || x.has(ociLayout) && x.has(ociIndex) {
		return x, nil
	}
	return nil, nil
}

func (x *imageIndex) add(name string, h *tar.Header, f *os.File) error {
	switch h.Typeflag {
	case tar.TypeReg:
		at := int64(0)
		if !x.compressed {
			var err error
			if at, err = f.Seek(0, io.SeekCurrent); err != nil {
				return err
			}
		}
		x.members[name] = imageMember{at: at, size: h.Size}
	case tar.TypeSymlink:
		x.members[name] = imageMember{link: cleanName(path.Dir(name) + "/" + h.Linkname)}
	case tar.TypeLink:
		x.members[name] = imageMember{link: cleanName(h.Linkname)}
	}
	return nil
}

// isImageName tells whether a docker archive or an OCI layout may have name.
func isImageName(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case ".", "blobs", "repositories", ociLayout:
		return true
	}
	for _, suffix := range []string{".json", ".tar", ".tar.gz"} {
		if strings.HasSuffix(top, suffix) {
			return true
		}
	}
	// A directory of docker's, or a config of go-containerregistry's.
	hex := strings.TrimPrefix(top, "sha256:")
	return len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// cleanName makes a member's name relative to the root and keeps it beneath:
// "." is the root itself.
func cleanName(name string) string {
	if name = path.Clean("/" + name)[1:]; name != "" {
		return name
	}
	return "."
}
