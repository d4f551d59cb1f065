package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// lines prints data: a line of text for people or an object for programs.
type lines struct {
	out *bufio.Writer
	enc *json.Encoder // nil for text
}

func newLines(c *cli.Context, std streams) *lines {
	l := &lines{out: bufio.NewWriter(std.out)}
	if c.Bool("json") {
		l.enc = json.NewEncoder(l.out)
		l.enc.SetEscapeHTML(false)
	}
	return l
}

func (l *lines) line(text string, object any) error {
	if l.enc != nil {
		return l.enc.Encode(object)
	}
	_, err := fmt.Fprintln(l.out, text)
	return err
}

func (l *lines) flush() error { return l.out.Flush() }

// imageList lists a directory of an image, or one file.
func imageList(c *cli.Context, std streams, args []string) error {
	return withImage(c, args[0], func(im *export.Image) error {
		e, err := im.Lookup(imagePath(args), true)
		if err != nil {
			return err
		}
		out := newLines(c, std)
		show := func(e *overlay.Entry) error {
			text := quoted(path.Base(e.Path))
			if c.Bool("l") {
				text = longText(e, text)
			}
			return out.line(text, entryObject(e))
		}
		if e.IsDir() {
			err = im.List(e, show)
		} else {
			err = show(e)
		}
		return errors.Join(err, out.flush())
	})
}

// longText is a line of a long listing.
func longText(e *overlay.Entry, name string) string {
	size := fmt.Sprint(e.Size)
	if e.IsDevice() {
		size = export.DeviceText(e.Rdev)
	}
	target := ""
	if e.IsSymlink() {
		target = " -> " + quoted(e.Target)
	}
	return fmt.Sprintf("%s %3d %5d %5d %10s %s %s%s", modeText(e.Mode), e.Nlink, e.UID, e.GID, size,
		e.Mtime.Time().UTC().Format("2006-01-02 15:04:05"), name, target)
}

// modeText writes a mode as ls does.
func modeText(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}
	text := []byte("?rwxrwxrwx")
	if k, ok := kinds[mode&unix.S_IFMT]; ok {
		text[0] = k
	}
	for i := range 9 {
		if mode&(0o400>>i) == 0 {
			text[i+1] = '-'
		}
	}
	for i, c := range []byte("sst") { // over the x of user, group and others
		if mode&(0o4000>>i) == 0 {
			continue
		}
		at := 3 * (i + 1)
		if text[at] == '-' {
			c -= 'a' - 'A'
		}
		text[at] = c
	}
	return string(text)
}

// jsonEntry is an entry for programs.
type jsonEntry struct {
	Path   string            `json:"path"`
	Bytes  []byte            `json:"path_bytes,omitempty"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // octal
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Links  uint32            `json:"links"`
	Inode  uint64            `json:"inode"`
	Size   int64             `json:"size"`
	Device string            `json:"device,omitempty"` // major:minor
	Target string            `json:"target,omitempty"`
	Raw    []byte            `json:"target_bytes,omitempty"`
	Atime  string            `json:"atime,omitempty"`
	Mtime  string            `json:"mtime"`
	Ctime  string            `json:"ctime,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"` // values in base64
	Data   []jsonExtent      `json:"data,omitempty"`
}

// jsonExtent is a part of a file's data; offsets and lengths are in bytes.
type jsonExtent struct {
	File   int64 `json:"file"`
	Image  int64 `json:"image"`
	Length int64 `json:"length"`
}

func entryObject(e *overlay.Entry) *jsonEntry {
	j := &jsonEntry{
		Path: absolute(e.Path), Bytes: notUTF8(absolute(e.Path)), Type: export.KindText(e), Mode: fmt.Sprintf("%04o", e.Mode&0o7777), UID: e.UID, GID: e.GID,
		Links: e.Nlink, Inode: e.Ino, Size: e.Size, Target: e.Target, Raw: notUTF8(e.Target), Mtime: export.TimeText(e.Mtime),
	}
	if e.Atime != (overlay.Time{}) || e.Ctime != (overlay.Time{}) { // tars keep neither
		j.Atime, j.Ctime = export.TimeText(e.Atime), export.TimeText(e.Ctime)
	}
	if e.IsDevice() {
		j.Device = export.DeviceText(e.Rdev)
	}
	for _, x := range e.Xattrs {
		if j.Xattrs == nil {
			j.Xattrs = make(map[string][]byte)
		}
		j.Xattrs[x.Name] = x.Value
	}
	return j
}

// absolute writes a path of an image as one from its root.
func absolute(p string) string {
	if p == "." {
		return "/"
	}
	return "/" + p
}

// imageCat writes a file's content.
func imageCat(c *cli.Context, std streams, args []string) error {
	return withImage(c, args[0], func(im *export.Image) error {
		e, err := im.Lookup(args[1], true)
		if err != nil {
			return err
		}
		if !e.IsRegular() {
			return fmt.Errorf("%s: a %s has no content", quoted(args[1]), export.KindText(e))
		}
		content, err := im.Content(e)
		if err != nil {
			return err
		}
		_, err = io.Copy(std.out, io.NewSectionReader(content, 0, e.Size))
		return err
	})
}
