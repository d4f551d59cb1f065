package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// folderEvents tells what happens in folders, which are known by their paths
// (inotify(7)). A folder may have several, and a path lead to another folder than
// before, also to one that has another path: fsnotify keeps one path for each folder,
// and loses one of two that have changed places. Nor can it be told to say when what
// has written to a file is done with it, which is all that is heard of writing to a
// mapped one.
type folderEvents struct {
	file   *os.File // nil where there can be none
	closed chan struct{}

	mu    sync.Mutex
	fd    int
	wds   map[string]int   // the folder that was watched by a path
	paths map[int][]string // its paths
	err   error            // why no more can be watched
}

// happenings are what is told of a folder and the files in it.
const happenings = unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE | unix.IN_MOVE_SELF |
	unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB

// otherFile are those after which a name may stand for another file.
const otherFile = unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE | unix.IN_MOVE_SELF

// newFolderEvents returns one that watches nothing, with the reason for add to
// tell, when the system has none to give.
func newFolderEvents() *folderEvents {
	e := &folderEvents{closed: make(chan struct{}), wds: make(map[string]int), paths: make(map[int][]string)}
	var err error
	if e.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		e.err = os.NewSyscallError("inotify_init1", err)
	} else {
		e.file = os.NewFile(uintptr(e.fd), "inotify")
	}
	return e
}

// add watches the folder that is at path now, and no longer one that was there before.
func (e *folderEvents) add(path string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	wd, err := unix.InotifyAddWatch(e.fd, path, happenings|unix.IN_ONLYDIR)
	if err != nil {
		return err
	}
	if was, ok := e.wds[path]; ok && was != wd {
		e.forget(path)
	}
	if e.wds[path] = wd; !slices.Contains(e.paths[wd], path) {
		e.paths[wd] = append(e.paths[wd], path)
	}
	return nil
}

// remove watches what was at path no longer.
func (e *folderEvents) remove(path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.wds[path]; ok && e.err == nil {
		e.forget(path)
	}
}

// forget is called with e.mu held.
func (e *folderEvents) forget(path string) {
	wd := e.wds[path]
	delete(e.wds, path)
	e.paths[wd] = slices.DeleteFunc(e.paths[wd], func(p string) bool { return p == path })
	if len(e.paths[wd]) == 0 {
		delete(e.paths, wd)
		_, _ = unix.InotifyRmWatch(e.fd, uint32(wd)) // it may be gone with its folder
	}
}

// close ends read.
func (e *folderEvents) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case errors.Is(e.err, os.ErrClosed):
		return
	case e.file != nil:
		_ = e.file.Close()
	}
	e.err = os.ErrClosed
	close(e.closed)
}

// read notes what happens, as [batch.note] has it, until close.
func (e *folderEvents) read(later func(note func(*batch))) {
	if e.file == nil {
		<-e.closed
		return
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := e.file.Read(buf)
		if err != nil {
			return
		}
		later(func(b *batch) { e.take(buf[:n], b) })
	}
}

// take notes events of the form of struct inotify_event: s32 wd, u32 mask, cookie
// and len, then the name, filled with zeros up to len.
func (e *folderEvents) take(events []byte, b *batch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int(int32(binary.NativeEndian.Uint32(events)))
		mask := binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name, _, _ := bytes.Cut(events[unix.SizeofInotifyEvent:end], []byte{0})
		events = events[end:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			b.overflow = true
		case mask&unix.IN_IGNORED != 0:
			for _, path := range e.paths[wd] {
				delete(e.wds, path)
			}
			delete(e.paths, wd)
		default:
			for _, path := range e.paths[wd] {
				if len(name) > 0 {
					path += "/" + string(name)
				}
				b.note(path, mask&otherFile != 0)
			}
		}
	}
}
