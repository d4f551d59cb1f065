package export

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"

	"github.com/DragonOS-Community/rootfs/export/plan"
)

// filesystemOf returns a plan that begins and ends with its name.
func filesystemOf(t testing.TB, size int64, name string) *plan.Plan {
	t.Helper()
	var b plan.Builder
	b.Put(0, []byte(name))
	b.Put(size-int64(len(name)), []byte(name))
	p, err := b.Build(size)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// diskFile writes the disk of a filesystem of the given size to a file.
func diskFile(t testing.TB, size int64, opts DiskOptions) string {
	t.Helper()
	disk, err := NewDisk(filesystemOf(t, size, "filesystem"), opts)
	if err != nil {
		t.Fatal(err)
	}
	if disk.Size() != size+opts.Table.Overhead() {
		t.Errorf("the disk has %d bytes, want %d more than %d", disk.Size(), opts.Table.Overhead(), size)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	if err := disk.WriteFile(t.Context(), f, nil); err != nil {
		t.Skipf("no sparse file of %d bytes here: %v", disk.Size(), err)
	}
	return f.Name()
}

var diskID = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func TestPartitionToolsAcceptDisks(t *testing.T) {
	needTool(t, "sfdisk")
	needTool(t, "sgdisk")
	needTool(t, "partx")
	for name, tc := range map[string]struct {
		size int64
		opts DiskOptions
		dump string // of sfdisk, but for the device's name
	}{
		"mbr ext4": {
			128 << 20,
			DiskOptions{Table: PartitionMBR},
			"label: dos\nlabel-id: 0x99cd4414\nunit: sectors\nsector-size: 512\n\n1 : start=        2048, size=      262144, type=83\n",
		},
		"mbr fat": {
			33 << 20,
			DiskOptions{Table: PartitionMBR, FAT: true},
			"label: dos\nlabel-id: 0x99cd4414\nunit: sectors\nsector-size: 512\n\n1 : start=        2048, size=       67584, type=c\n",
		},
		"gpt ext4": {
			128 << 20,
			DiskOptions{Table: PartitionGPT},
			"label: gpt\nlabel-id: DISK\nunit: sectors\nfirst-lba: 34\nlast-lba: 266206\nsector-size: 512\n\n1 : start=        2048, size=      262144, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=PART, name=\"rootfs\"\n",
		},
		"gpt fat, odd size": {
			33<<20 + 512,
			DiskOptions{Table: PartitionGPT, FAT: true},
			"label: gpt\nlabel-id: DISK\nunit: sectors\nfirst-lba: 34\nlast-lba: 71647\nsector-size: 512\n\n1 : start=        2048, size=       67585, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, uuid=PART, name=\"rootfs\"\n",
		},
		"gpt of 3 TiB": {
			3 << 40,
			DiskOptions{Table: PartitionGPT},
			"label: gpt\nlabel-id: DISK\nunit: sectors\nfirst-lba: 34\nlast-lba: 6442455006\nsector-size: 512\n\n1 : start=        2048, size=  6442450944, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=PART, name=\"rootfs\"\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.opts.ID = diskID
			disk := diskFile(t, tc.size, tc.opts)
			if got := run(t, "sfdisk", "--verify", disk); !strings.Contains(got, "No errors detected.\n") {
				t.Errorf("sfdisk --verify: %s", got)
			}
			if got := run(t, "partx", "--show", "-go", "START,END", disk); got == "" {
				t.Error("partx shows no partition")
			}
			got := strings.ReplaceAll(run(t, "sfdisk", "-d", disk), "device: "+disk+"\n", "")
			got = strings.ReplaceAll(got, disk, "")
			want := strings.NewReplacer("DISK", strings.ToUpper(deriveGUID(diskID, "GPT disk")),
				"PART", strings.ToUpper(deriveGUID(diskID, "GPT partition 1"))).Replace(tc.dump)
			if got != want {
				t.Errorf("sfdisk -d:\n%s\nwant:\n%s", got, want)
			}
			if tc.opts.Table == PartitionGPT {
				if got := run(t, "sgdisk", "-v", disk); !strings.Contains(got, "No problems found") || strings.Contains(got, "Warning") {
					t.Errorf("sgdisk -v: %s", got)
				}
			}
		})
	}
}

func TestDiskHoldsFilesystem(t *testing.T) {
	const size = 5 << 20
	want := make([]byte, size)
	if _, err := filesystemOf(t, size, "filesystem").ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	for table, off := range map[PartitionTable]int64{PartitionNone: 0, PartitionMBR: 1 << 20, PartitionGPT: 1 << 20} {
		disk, err := NewDisk(filesystemOf(t, size, "filesystem"), DiskOptions{Table: table})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if _, err := disk.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the partition at %d differs, error %v", table, off, err)
		}
		if !bytes.Equal(got[:10], []byte("filesystem")) {
			t.Error("the filesystem reads as nothing")
		}
	}
}

func TestBadDisks(t *testing.T) {
	for want, tc := range map[string]struct {
		size  int64
		table PartitionTable
	}{
		"is not a whole number of 512-byte sectors": {1000, PartitionMBR},
		"its limit is 2 TiB; use gpt":               {2 << 40, PartitionMBR},
		`partition table "apm" is unknown`:          {1 << 20, "apm"},
	} {
		if _, err := NewDisk(filesystemOf(t, tc.size, "x"), DiskOptions{Table: tc.table}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := NewDisk(filesystemOf(t, (math.MaxUint32-2048)*512, "x"), DiskOptions{Table: PartitionMBR}); err != nil {
		t.Errorf("the largest MBR partition: %v", err)
	}
}

// A size in decimal units, as 100MB, need not be whole sectors; a disk is.
func TestDiskOfDecimalSize(t *testing.T) {
	tree := configTree(t, "file x")
	file := filepath.Join(t.TempDir(), "disk.img")
	for _, table := range []string{"mbr", "gpt"} {
		for _, fs := range []string{"ext4", "vfat"} {
			r := &Request{Img: file, Filesystem: fs, Partition: table, Size: "100MB"}
			if _, err := Run(t.Context(), tree, r); err != nil {
				t.Errorf("%s, %s: %v", table, fs, err)
				continue
			}
			st, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if size := st.Size(); size%sectorSize != 0 || size > 100e6 || size <= 100e6-sectorSize {
				t.Errorf("%s, %s: %d bytes", table, fs, size)
			}
			im := openImage(t, file)
			if err := im.Check(t.Context(), func(problem string) error { return errors.New(problem) }); err != nil {
				t.Errorf("%s, %s: %v", table, fs, err)
			}
		}
	}
}

func TestDiskIdentifiersDependOnID(t *testing.T) {
	for _, table := range []PartitionTable{PartitionMBR, PartitionGPT} {
		var heads [3][]byte
		for i, id := range [][16]byte{diskID, diskID, {}} {
			disk, err := NewDisk(filesystemOf(t, 1<<20, "x"), DiskOptions{Table: table, ID: id})
			if err != nil {
				t.Fatal(err)
			}
			heads[i] = make([]byte, partitionStart)
			if _, err := disk.ReadAt(heads[i], 0); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(heads[0], heads[1]) {
			t.Errorf("%s: same ID, other bytes", table)
		}
		if bytes.Equal(heads[0], heads[2]) {
			t.Errorf("%s: other ID, same bytes", table)
		}
	}
}

// What sfdisk writes for a partition at 1 MiB, and at the last address.
func TestCHS(t *testing.T) {
	for lba, want := range map[int64][3]byte{
		2048:                {0x20, 0x21, 0x00},
		264191:              {0x71, 0x21, 0x10},
		1024*255*63 - 1:     {0xfe, 0xff, 0xff},
		1024 * 255 * 63:     {0xfe, 0xff, 0xff},
		math.MaxUint32 - 10: {0xfe, 0xff, 0xff},
	} {
		if h, s, c := chs(lba); [3]byte{h, s, c} != want {
			t.Errorf("sector %d is at %x %x %x, want %x", lba, h, s, c, want)
		}
	}
}

// Gaps of go-diskfs that writeMBR and writeGPT fill. When this test fails,
// upstream has closed one, and the code for it here can go.
func TestGoDiskfsGaps(t *testing.T) {
	var w tableWriter
	table := &mbr.Table{Partitions: []*mbr.Partition{{Type: mbr.Linux, Start: 2048, Size: 2048}}}
	if err := table.Write(&w, 1<<30); err != nil {
		t.Fatal(err)
	}
	if w.at(mbrSignature) != nil {
		t.Error("mbr.Table.Write writes a disk signature")
	}
	w = tableWriter{}
	guid := deriveGUID(diskID, "")
	const disk = 3 << 40
	big := &gpt.Table{GUID: guid, ProtectiveMBR: true}
	if err := big.Write(&w, disk); err != nil {
		t.Fatal(err)
	}
	entry := w.at(mbrEntries)
	if !bytes.Equal(entry[entryCHS:entryCHS+3], []byte{0, 0, 0}) {
		t.Error("gpt.Table.Write sets CHS in the protective MBR")
	}
	if binary.LittleEndian.Uint32(entry[entrySectors:]) == math.MaxUint32 {
		t.Error("gpt.Table.Write caps the size in the protective MBR")
	}
}
