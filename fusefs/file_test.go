package fusefs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestContents(t *testing.T) {
	m := sample(t, Options{})
	passwd := m.path("etc/passwd")
	f, err := os.OpenFile(passwd, os.O_RDWR|os.O_APPEND, 0)
	check(t, "open", err)
	closeLater(t, f)
	_, err = f.WriteString("me:x:1:1\n")
	check(t, "append", err)
	wantContent(t, passwd, "root:x:0:0\nme:x:1:1\n")
	check(t, "fsync", f.Sync())
	check(t, "fdatasync", unix.Fdatasync(int(f.Fd())))

	check(t, "truncate", os.Truncate(passwd, 4))
	wantContent(t, passwd, "root")
	check(t, "truncate up", os.Truncate(passwd, 6))
	wantContent(t, passwd, "root\x00\x00")
	check(t, "O_TRUNC", os.WriteFile(passwd, []byte("new"), 0o600))
	wantContent(t, passwd, "new")
	if st := lstat(t, passwd); st.Size != 3 || st.Mode != 0o100644 {
		t.Errorf("size %d, mode %o", st.Size, st.Mode)
	}

	big := bytes.Repeat([]byte("0123456789abcdef"), 300<<10) // several requests
	check(t, "write 4.8 MiB", os.WriteFile(m.path("big"), big, 0o644))
	got, err := os.ReadFile(m.path("big"))
	check(t, "read 4.8 MiB", err)
	if !bytes.Equal(got, big) {
		t.Error("what was read is not what was written")
	}
}

// The kernel appends at the end that it knows, which a layer may have moved.
func TestAppendingToAFileThatALayerHasChanged(t *testing.T) {
	for how, now := range map[string]string{"longer": "root:x:0:0\nbin:x:1:1\n", "shorter": "root\n"} {
		t.Run(how, func(t *testing.T) {
			dir := project(t, map[string]string{"etc/passwd": "root:x:0:0\n"})
			m := serve(t, dir, Options{}, nil)
			passwd := m.path("etc/passwd")
			wantContent(t, passwd, "root:x:0:0\n")
			f, err := os.OpenFile(passwd, os.O_RDWR|os.O_APPEND, 0)
			check(t, "open", err)
			closeLater(t, f)
			check(t, "change the layer", os.WriteFile(filepath.Join(dir, "user/apps/base/etc/passwd"), []byte(now), 0o644))
			lines := bytes.Repeat([]byte("me:x:2:2\n"), 200<<10) // several requests
			for range 2 {
				_, err = f.Write(lines)
				check(t, "append", err)
			}
			now += strings.Repeat(string(lines), 2)
			within(t, "the kernel shows what was appended", func() bool {
				got, err := os.ReadFile(passwd)
				return err == nil && string(got) == now
			})
		})
	}
}

func TestMappedWritesAreSeen(t *testing.T) {
	m := sample(t, Options{})
	f, err := os.OpenFile(m.path("usr/lib/libc.so"), os.O_RDWR, 0)
	check(t, "open", err)
	closeLater(t, f)
	mem, err := unix.Mmap(int(f.Fd()), 0, 12000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, "mmap", err)
	copy(mem, "LIBC")
	check(t, "msync", unix.Msync(mem, unix.MS_SYNC))
	buf := make([]byte, 8)
	_, err = unix.Pread(int(f.Fd()), buf, 0)
	check(t, "pread", err)
	if string(buf) != "LIBClibc" {
		t.Errorf("read %q", buf)
	}
	check(t, "munmap", unix.Munmap(mem))
}

func TestSparseFiles(t *testing.T) {
	m := sample(t, Options{})
	f, err := os.Create(m.path("sparse"))
	check(t, "create", err)
	closeLater(t, f)
	fd := int(f.Fd())
	_, err = f.WriteAt([]byte("end"), 1<<20)
	check(t, "write", err)
	data, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	check(t, "SEEK_DATA", err)
	hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	check(t, "SEEK_HOLE", err)
	if data != 1<<20 || hole != 0 {
		t.Errorf("data at %d, hole at %d", data, hole)
	}
	_, err = unix.Seek(fd, 2<<20, unix.SEEK_DATA)
	wantErrno(t, "SEEK_DATA behind the end", err, unix.ENXIO)

	check(t, "fallocate", unix.Fallocate(fd, 0, 0, 2<<20))
	if st := lstat(t, m.path("sparse")); st.Size != 2<<20 {
		t.Errorf("size %d after fallocate", st.Size)
	}
	check(t, "punch", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 4096))
	buf := make([]byte, 3)
	_, err = f.ReadAt(buf, 1<<20)
	check(t, "read", err)
	if string(buf) != "\x00\x00\x00" {
		t.Errorf("the hole reads %q", buf)
	}
}

// cp and tar look for data so, and copy nothing else.
func TestWhatIsMappedIsData(t *testing.T) {
	m := sample(t, Options{})
	f, err := os.Create(m.path("sparse"))
	check(t, "create", err)
	closeLater(t, f)
	fd := int(f.Fd())
	check(t, "truncate", f.Truncate(1<<20))
	mem, err := unix.Mmap(fd, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, "mmap", err)
	t.Cleanup(func() { check(t, "munmap", unix.Munmap(mem)) })
	copy(mem[8192:], "data")
	data, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	check(t, "SEEK_DATA", err)
	hole, err := unix.Seek(fd, 8192, unix.SEEK_HOLE)
	check(t, "SEEK_HOLE", err)
	if data != 8192 || hole != 12288 {
		t.Errorf("data at %d, then a hole at %d", data, hole)
	}
}

func TestCopyFileRange(t *testing.T) {
	m := sample(t, Options{})
	src, err := os.Open(m.path("usr/lib/libc.so"))
	check(t, "open", err)
	closeLater(t, src)
	dst, err := os.Create(m.path("copy"))
	check(t, "create", err)
	closeLater(t, dst)
	off, at := int64(4), int64(0)
	n, err := unix.CopyFileRange(int(src.Fd()), &off, int(dst.Fd()), &at, 8, 0)
	check(t, "copy_file_range", err)
	if n != 8 {
		t.Errorf("copied %d", n)
	}
	wantContent(t, m.path("copy"), "libclibc")
}
