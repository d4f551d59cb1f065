// Package export writes a merged tree as a layer tar, a docker archive, an OCI
// layout or a disk image.
//
// The tree is walked once, parents first and names in order, and each entry
// goes to all writers that were asked for. The same tree and the same request
// make the same bytes, on any machine. An output appears under its name when
// it is whole and on the disk; after an error, or when the context ends, the
// old file is still there and nothing else is.
package export

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// Request says what to write and where. An empty output isn't written; an
// empty setting is the manifest's.
type Request struct {
	Img, Tar, Docker, OCI string // output paths

	Filesystem string // "ext4", "vfat"
	Partition  string // "mbr", "gpt", "none"
	Size       string // of the image, as ParseSize takes it
	Free       string // added to an image of automatic size
	Label      string
	UUID       string // of the filesystem, of vfat the volume's ID; "" derives it from the content

	Arch string // x86_64 aarch64 riscv64 loongarch64
	Tag  string // of the container image

	// Strict makes errors of the warnings.
	Strict bool

	// Lossy leaves out of a vfat image what FAT can't hold, with a warning
	// for each; otherwise that is an error, which lists it all.
	Lossy bool

	// Epoch is the latest time that an entry may have; nil for any.
	Epoch *overlay.Time

	Log      *slog.Logger // takes warnings; nil for none
	Progress Progress     // nil for none

	machines *machineCheck
}

// Progress is told how far an export is. Add may be called by several
// goroutines.
type Progress interface {
	// Step begins the next step, with total bytes to do, 0 when not known.
	Step(name string, total int64)
	// Add counts bytes that are done.
	Add(n int64)
}

// Report says what was written, or what would be.
type Report struct {
	Layers  []string // bottom to top
	Entries int64    // names in the tree
	Content int64    // bytes in regular files, each hard link once
	Outputs []OutputReport
}

// OutputReport is one output.
type OutputReport struct {
	Kind   string // "disk image", "layer tar", "docker archive", "OCI layout"
	Path   string
	Size   int64  // bytes; 0 when it isn't known before it is written
	Detail string // such as "ext4, mbr"
}

type silence struct{}

func (silence) Step(string, int64) {}
func (silence) Add(int64)          {}

// Run writes all outputs of the request in one walk of the tree.
func Run(ctx context.Context, t *overlay.Tree, r *Request) (*Report, error) {
	x, err := newExport(t, r)
	if err != nil {
		return nil, err
	}
	return x.report, x.write(ctx)
}

// DryRun plans what Run would do and writes nothing.
func DryRun(ctx context.Context, t *overlay.Tree, r *Request) (*Report, error) {
	x, err := newExport(t, r)
	if err != nil {
		return nil, err
	}
	if err := x.walk(ctx, x.visitors()); err != nil {
		return nil, err
	}
	if x.planner != nil {
		if _, err := x.planDisk(); err != nil {
			return nil, err
		}
	}
	return x.report, nil
}

// exporting is one export under way.
type exporting struct {
	tree     *overlay.Tree
	request  Request // with the manifest's settings filled in
	progress Progress
	report   *Report
	planner  planner         // nil without a disk image
	links    map[uint64]bool // hard-linked files that were counted
}

func newExport(t *overlay.Tree, r *Request) (*exporting, error) {
	x := &exporting{tree: t, request: r.complete(t), report: &Report{}, links: make(map[uint64]bool)}
	x.progress = x.request.Progress
	for _, l := range t.Layers() {
		x.report.Layers = append(x.report.Layers, l.Name)
	}
	if x.request.Img != "" {
		var err error
		if x.planner, err = newPlanner(&x.request); err != nil {
			return nil, err
		}
	}
	if x.request.Docker != "" || x.request.OCI != "" {
		if _, _, err := (ImageOptions{Tag: x.request.Tag}).tag(); err != nil {
			return nil, err
		}
	}
	x.listOutputs()
	return x, nil
}

// complete returns the request with what it leaves open taken from the tree's
// manifest, or from nowhere.
func (r Request) complete(t *overlay.Tree) Request {
	m := t.Project().Manifest
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&r.Filesystem, m.Image.Filesystem},
		{&r.Partition, m.Image.Partition},
		{&r.Size, m.Image.Size},
		{&r.Free, m.Image.Free},
		{&r.Label, m.Image.Label},
		{&r.UUID, m.Image.UUID},
		{&r.Arch, m.Arch},
	} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Progress == nil {
		r.Progress = silence{}
	}
	r.machines = newMachineCheck(r.Arch)
	return r
}

func (x *exporting) listOutputs() {
	r := &x.request
	for _, o := range []OutputReport{
		{Kind: "layer tar", Path: r.Tar, Detail: "pax"},
		{Kind: "docker archive", Path: r.Docker, Detail: r.Arch},
		{Kind: "OCI layout", Path: r.OCI, Detail: r.Arch},
		{Kind: "disk image", Path: r.Img, Detail: r.Filesystem + ", " + r.Partition},
	} {
		if o.Path != "" {
			x.report.Outputs = append(x.report.Outputs, o)
		}
	}
}

// sized notes an output's size in the report.
func (x *exporting) sized(kind string, size int64) {
	for i := range x.report.Outputs {
		if x.report.Outputs[i].Kind == kind {
			x.report.Outputs[i].Size = size
		}
	}
}

// visitors are what takes the entries of a walk, besides a tar.
func (x *exporting) visitors() []func(*overlay.Entry) error {
	all := []func(*overlay.Entry) error{x.count}
	if x.request.Docker != "" || x.request.OCI != "" {
		all = append(all, notWhiteout)
	}
	if x.planner != nil {
		all = append(all, x.planner.Add)
	}
	return all
}

func (x *exporting) count(e *overlay.Entry) error {
	x.report.Entries++
	if !e.IsRegular() || e.Nlink > 1 && x.links[e.Ino] {
		return nil
	}
	if e.Nlink > 1 {
		x.links[e.Ino] = true
	}
	x.report.Content += e.Size
	return nil
}

func (x *exporting) walk(ctx context.Context, visitors []func(*overlay.Entry) error) error {
	return Walk(ctx, x.tree, x.request.Epoch, func(e *overlay.Entry) error {
		x.request.machines.watch(e)
		for _, visit := range visitors {
			if err := visit(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// planDisk plans the image, when all entries are known.
func (x *exporting) planDisk() (*plan.Plan, error) {
	fs, err := x.planner.Plan()
	if size := new(plan.SizeError); errors.As(err, &size) {
		// What was asked for is the disk's size.
		overhead := PartitionTable(x.request.Partition).Overhead()
		return nil, &plan.SizeError{Size: size.Size + overhead, Need: size.Need + overhead}
	}
	if err != nil {
		return nil, err
	}
	opts := DiskOptions{Table: PartitionTable(x.request.Partition), FAT: x.request.Filesystem == filesystemVFAT}
	if opts.ID, err = idOf(fs, x.request.Filesystem); err != nil {
		return nil, err
	}
	disk, err := NewDisk(fs, opts)
	if err == nil {
		x.sized("disk image", disk.Size())
	}
	return disk, err
}

// created is the time that a container image states.
func (r *Request) created() time.Time {
	if r.Epoch == nil {
		return time.Time{}
	}
	return r.Epoch.Time()
}
