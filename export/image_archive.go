package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	maxManifest = 16 << 20 // of a docker archive, in bytes

	// maxLayers is how many the kernel's overlay takes (OVL_MAX_STACK).
	maxLayers = 500
)

// openTar opens a tar or a docker archive that begins with start.
func (im *Image) openTar(start []byte, size int64) error {
	outer := tarSection{0, size}
	if decompressorFor(start) != nil {
		scratch, err := im.scratch()
		if err == nil {
			outer, err = spool(scratch, im.src, outer)
		}
		if err != nil {
			return err
		}
		im.src = scratch
	}
	t := readTar("tar", im.src, false, outer)
	im.Filesystem = t
	if t.err != nil {
		return nil // told by the first call
	}
	manifest := t.node(tarRoot).children["manifest.json"]
	if manifest == 0 || !t.node(manifest).entry.IsRegular() {
		return nil
	}
	b, err := im.readAll(manifest, maxManifest)
	if err != nil {
		return err
	}
	var images []struct{ Layers []string }
	if json.Unmarshal(b, &images) != nil || len(images) == 0 || len(images[0].Layers) == 0 {
		return nil // some other file
	}
	if len(images) > 1 {
		return fmt.Errorf("a docker archive of %d images; save one alone", len(images))
	}
	if n := len(images[0].Layers); n > maxLayers {
		return fmt.Errorf("a docker archive of %d layers, more than %d", n, maxLayers)
	}
	return im.openDocker(t, images[0].Layers)
}

// openDocker opens the layers of a docker archive (Docker image specification
// v1.2, "Combined Image JSON + Filesystem Changeset Format").
func (im *Image) openDocker(outer *tarTree, names []string) error {
	var layers []tarSection
	packed := false
	for _, name := range names {
		s, err := im.layer(outer, name)
		if err != nil {
			return fmt.Errorf("layer %s: %w", name, err)
		}
		start := make([]byte, 8)
		n, err := im.src.ReadAt(start, s.off)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("layer %s: %w", name, err)
		}
		packed = packed || decompressorFor(start[:n]) != nil
		layers = append(layers, s)
	}
	if packed {
		scratch, err := im.scratch()
		if err != nil {
			return err
		}
		for i, s := range layers {
			if layers[i], err = spool(scratch, im.src, s); err != nil {
				return fmt.Errorf("layer %s: %w", names[i], err)
			}
		}
		im.src = scratch
	}
	im.Filesystem = readTar("docker archive", im.src, true, layers...)
	return nil
}

// layer finds a layer's bytes in the archive. Old archives have links to the
// layers that images share.
func (im *Image) layer(outer *tarTree, name string) (tarSection, error) {
	e, err := im.Lookup(name, true)
	if err != nil {
		return tarSection{}, err
	}
	pieces := outer.node(e.Ino).pieces
	if !e.IsRegular() || len(pieces) != 1 || pieces[0].length != e.Size {
		return tarSection{}, errors.New("no file that can hold a layer")
	}
	return tarSection{pieces[0].image, e.Size}, nil
}

// scratch opens a file for what is decompressed. It is gone with the image.
func (im *Image) scratch() (*os.File, error) {
	f, err := Scratch(os.TempDir())
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	im.files = append(im.files, f)
	im.Unpacked = true
	return f, nil
}

// spool appends what is in s to a file, decompressed, and returns where.
func spool(to *os.File, src io.ReaderAt, s tarSection) (tarSection, error) {
	off, err := to.Seek(0, io.SeekEnd)
	if err != nil {
		return tarSection{}, err
	}
	var r io.Reader = io.NewSectionReader(src, s.off, s.size)
	start := make([]byte, 8)
	n, _ := io.ReadFull(r, start)
	r = io.MultiReader(bytes.NewReader(start[:n]), r)
	if open := decompressorFor(start[:n]); open != nil {
		z, err := open(r)
		if err != nil {
			return tarSection{}, fmt.Errorf("decompress: %w", err)
		}
		defer z.Close() //nolint:errcheck // only read
		r = z
	}
	size, err := io.CopyBuffer(to, struct{ io.Reader }{r}, make([]byte, 1<<20))
	if err != nil {
		return tarSection{}, fmt.Errorf("decompress: %w", err)
	}
	return tarSection{off, size}, nil
}

// readAll reads a file of limited size.
func (im *Image) readAll(number uint64, limit int64) ([]byte, error) {
	var e overlay.Entry
	if err := im.Stat(number, &e); err != nil {
		return nil, err
	}
	if e.Size > limit {
		return nil, fmt.Errorf("a file of %d bytes where at most %d are expected", e.Size, limit)
	}
	c, err := im.Content(&e)
	if err != nil {
		return nil, err
	}
	b := make([]byte, e.Size)
	return b, readAtFull(c, b, 0)
}
