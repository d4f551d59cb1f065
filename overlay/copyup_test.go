package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// written is how many bytes this process has written so far, by
// copy_file_range(2) too (proc_pid_io(5)).
func written(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	must(t, err)
	_, after, _ := strings.Cut(string(text), "wchar: ")
	_, err = fmt.Sscan(after, &n)
	must(t, err)
	return n
}

// reflinks tells whether files of dir can share their content.
func reflinks(t *testing.T, dir string) bool {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("probe%d", i)))
		must(t, err)
		defer f.Close() //nolint:errcheck // of no use any more
		files[i] = f
	}
	_, err := files[0].WriteString("x")
	must(t, err)
	return unix.IoctlFileClone(int(files[1].Fd()), int(files[0].Fd())) == nil
}

// A file's content is copied when its first byte changes, once, and only what
// is left of it.
func TestCopyUpCopiesOnceAndNoMoreThanNeeded(t *testing.T) {
	const size = 8 << 20
	for _, step := range []struct {
		name string
		do   func(tree *Tree, n *Node) error
		want int64
	}{
		{"write a byte", func(tree *Tree, n *Node) error { _, err := tree.Write(n, []byte("y"), size/2); return err }, size},
		{"truncate to 1 MiB", func(tree *Tree, n *Node) error { return tree.SetAttr(n, &Change{Size: ptr(int64(1 << 20))}) }, 1 << 20},
		{"truncate to nothing", func(tree *Tree, n *Node) error { return tree.SetAttr(n, &Change{Size: ptr(int64(0))}) }, 0},
		{"read", func(tree *Tree, n *Node) error { _, err := tree.Read(n, make([]byte, size), 0); return err }, 0},
	} {
		tree := open(t, project(t, "user/sysconfig/big "+strings.Repeat("x", size)))
		want := step.want
		if reflinks(t, t.TempDir()) && want == size {
			want = 0
		}
		for _, try := range []string{"first", "again"} {
			before := written(t)
			must(t, step.do(tree, at(t, tree, "big")))
			// Besides the content, names and attributes of some 100 bytes.
			if n := written(t) - before; n < want || n > want+4096 {
				t.Errorf("%s, %s: %d bytes written, want %d", step.name, try, n, want)
			}
			want = 0
		}
	}
}

// Who writes while another's write copies the file up waits for the copy, also
// at the moment in which the file moves to it.
func TestWriteWhileAFileMovesToItsCopy(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	n := at(t, tree, "etc/conf")
	must(t, tree.Unlink(etc, "conf")) // it is open
	_, err := tree.Read(n, make([]byte, 4), 0)
	must(t, err)
	done := make(chan error)
	write := func(text string) {
		_, err := tree.Write(n, []byte(text), 0)
		done <- err
	}
	tree.linkMu.Lock() // which the move needs
	go write("first")
	held := 0
	within(t, "it moves", func() bool {
		if held++; tree.mu.TryRLock() {
			tree.mu.RUnlock()
			held = 0
		}
		return held == 5
	})
	go write("then!")
	time.Sleep(10 * time.Millisecond)
	tree.linkMu.Unlock()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var e Entry
	if must(t, tree.Stat(n, &e)); e.Size != 5 || e.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Errorf("%d bytes", e.Size)
	}
}

func ptr[T any](v T) *T { return &v }
