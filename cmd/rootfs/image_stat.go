package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// imageStat tells every field of a file, and where its data lies; or what the
// image is.
func imageStat(c *cli.Context, std streams, args []string) error {
	return withImage(c, args[0], func(im *export.Image) error {
		out := newLines(c, std)
		if len(args) == 1 {
			return errors.Join(printImage(out, im), out.flush())
		}
		e, err := im.Lookup(args[1], false)
		if err != nil {
			return err
		}
		object := entryObject(e)
		err = im.Extents(e.Ino, func(file, image, length int64) error {
			object.Data = append(object.Data, jsonExtent{file, image + im.Offset, length})
			return nil
		})
		if err == nil {
			err = printEntry(out, im, e, object)
		}
		return errors.Join(err, out.flush())
	})
}

// printImage tells what an image is.
func printImage(out *lines, im *export.Image) error {
	text := fmt.Sprintf("format     %s", im.Format())
	if im.Partition > 0 {
		text += fmt.Sprintf("\ntable      %s\npartition  %d at byte %d", im.Table, im.Partition, im.Offset)
	}
	return out.line(text, struct {
		Format    string `json:"format"`
		Table     string `json:"table"`
		Partition int    `json:"partition,omitempty"`
		Offset    int64  `json:"offset"` // bytes
	}{im.Format(), string(im.Table), im.Partition, im.Offset})
}

// printEntry tells all about a file.
func printEntry(out *lines, im *export.Image, e *overlay.Entry, o *jsonEntry) error {
	text := ""
	field := func(name, value string) {
		if value != "" {
			text += fmt.Sprintf("%-10s %s\n", name, value)
		}
	}
	field("path", quoted(o.Path))
	field("type", o.Type)
	field("mode", o.Mode+" "+modeText(e.Mode))
	field("owner", fmt.Sprintf("%d:%d", e.UID, e.GID))
	field("links", fmt.Sprint(e.Nlink))
	field("inode", fmt.Sprint(e.Ino))
	field("size", fmt.Sprint(e.Size))
	field("device", o.Device)
	if e.IsSymlink() {
		field("target", quoted(e.Target))
	}
	field("atime", o.Atime)
	field("mtime", o.Mtime)
	field("ctime", o.Ctime)
	for _, x := range e.Xattrs {
		field("xattr", fmt.Sprintf("%s=%q", quoted(x.Name), x.Value))
	}
	where := "of the image"
	if im.Unpacked {
		where = "of what the image unpacks to"
	}
	for _, d := range o.Data {
		field("data", fmt.Sprintf("%d bytes from %d on, at byte %d %s", d.Length, d.File, d.Image, where))
	}
	return out.line(text[:len(text)-1], o)
}
