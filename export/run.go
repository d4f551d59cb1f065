package export

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// outputs are the unfinished files of an export.
type outputs struct {
	tar, docker, img *Output
	oci              *OutputDir
}

func (o *outputs) discard() {
	for _, out := range []*Output{o.tar, o.docker, o.img} {
		if out != nil {
			out.Discard()
		}
	}
	if o.oci != nil {
		o.oci.Discard()
	}
}

// commit gives all outputs their names, once all are whole and on the disk.
func (o *outputs) commit() error {
	files := slices.DeleteFunc([]*Output{o.tar, o.docker, o.img}, func(f *Output) bool { return f == nil })
	for _, f := range files {
		if err := f.sync(); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := f.Commit(); err != nil {
			return err
		}
	}
	if o.oci != nil {
		return o.oci.Commit()
	}
	return nil
}

// scratchDir is a directory on the filesystem of one of the container images.
func (o *outputs) scratchDir() string {
	if o.docker != nil {
		return dirOf(o.docker.target)
	}
	return dirOf(o.oci.target)
}

// start opens the outputs, so that a wrong path fails before the work.
func (x *exporting) start() (o *outputs, err error) {
	o = &outputs{}
	defer func() {
		if err != nil {
			o.discard()
		}
	}()
	r := &x.request
	for _, f := range []struct {
		path string
		out  **Output
	}{{r.Tar, &o.tar}, {r.Docker, &o.docker}, {r.Img, &o.img}} {
		if f.path == "" {
			continue
		}
		if *f.out, err = CreateOutput(f.path); err != nil {
			return o, err
		}
	}
	if r.OCI != "" {
		o.oci, err = CreateOutputDir(r.OCI, MayReplaceOCI)
	}
	return o, err
}

func (x *exporting) write(ctx context.Context) error {
	o, err := x.start()
	if err != nil {
		return err
	}
	defer o.discard()
	layer, closeLayer, err := x.layerFile(o)
	if err != nil {
		return err
	}
	defer closeLayer()
	sum, err := x.writeTar(ctx, layer)
	if err != nil {
		return err
	}
	if layer != nil {
		if err := x.writeContainers(ctx, o, Layer{File: layer, TarSum: sum}); err != nil {
			return err
		}
	}
	if o.img != nil {
		if err := x.writeDisk(ctx, o.img); err != nil {
			return err
		}
	}
	if err := x.request.machines.report(x.request.Log, x.request.Strict); err != nil {
		return err
	}
	return o.commit()
}

// layerFile is the file that the layer tar goes to: an output itself, or a
// scratch file that container images are made from; nil when no output needs
// one.
func (x *exporting) layerFile(o *outputs) (*os.File, func(), error) {
	if o.tar != nil {
		return o.tar.File, func() {}, nil
	}
	if o.docker == nil && o.oci == nil {
		return nil, func() {}, nil
	}
	f, err := Scratch(o.scratchDir())
	if err != nil {
		return nil, nil, err
	}
	return f, func() { _ = f.Close() }, nil // it has no name to be incomplete under
}

// writeTar walks the tree for all writers, a tar among them unless layer is
// nil.
func (x *exporting) writeTar(ctx context.Context, layer *os.File) (sum TarSum, err error) {
	if layer == nil {
		x.progress.Step("reading the tree", 0)
		return TarSum{}, x.walk(ctx, x.visitors())
	}
	x.progress.Step("writing the layer", 0)
	w := NewTarWriter(ctx, layer, TarOptions{
		Log: x.request.Log, Progress: x.progress.Add, Digest: x.request.Docker != "" || x.request.OCI != "",
	})
	err = x.walk(ctx, append([]func(*overlay.Entry) error{w.Add}, x.visitors()...))
	sum, closeErr := w.Close()
	if err == nil {
		err = closeErr
	}
	x.sized("layer tar", sum.Size)
	return sum, err
}

func (x *exporting) writeContainers(ctx context.Context, o *outputs, l Layer) error {
	opts := ImageOptions{
		Arch: x.request.Arch, Tag: x.request.Tag, Created: x.request.created(), Progress: x.progress.Add,
	}
	if o.docker != nil {
		x.progress.Step("writing the docker archive", l.Size)
		path := x.request.Docker
		if err := WriteDocker(ctx, o.docker.File, CompressionOf(path), l, opts); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if st, err := o.docker.File.Stat(); err == nil {
			x.sized("docker archive", st.Size())
		}
	}
	if o.oci != nil {
		x.progress.Step("writing the OCI layout", l.Size)
		if err := WriteOCI(ctx, o.oci.Path, l, opts); err != nil {
			return fmt.Errorf("%s: %w", x.request.OCI, err)
		}
	}
	return nil
}

func (x *exporting) writeDisk(ctx context.Context, out *Output) error {
	disk, err := x.planDisk()
	if err != nil {
		return err
	}
	defer disk.Close() //nolint:errcheck // sources, only read
	x.progress.Step("writing the disk image", disk.DataSize())
	if err := disk.WriteFile(ctx, out.File, x.progress.Add); err != nil {
		return fmt.Errorf("%s: %w", x.request.Img, err)
	}
	return nil
}
