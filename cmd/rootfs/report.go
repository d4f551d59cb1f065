package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
)

// printReport tells what an export wrote, or would write: with -n, which
// writes nothing, the layers too, which are all that decides the content.
func printReport(c *cli.Context, w io.Writer, r *export.Report) error {
	switch {
	case c.Bool("json"):
		return printJSON(json.NewEncoder(w), r)
	case c.Bool("q"):
		return nil
	case c.Bool("n"):
		return printPlan(w, r)
	default:
		return printOutputs(w, r)
	}
}

func printPlan(w io.Writer, r *export.Report) error {
	errs := []error{fprintf(w, "layers, bottom to top:\n")}
	for _, name := range r.Layers {
		errs = append(errs, fprintf(w, "  %s\n", quoted(name)))
	}
	errs = append(errs,
		fprintf(w, "tree:\n  %d entries, %s of content\n", r.Entries, bytesText(r.Content)),
		fprintf(w, "would write:\n"),
		printOutputs(w, r))
	return errors.Join(errs...)
}

func printOutputs(w io.Writer, r *export.Report) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var errs []error
	for _, o := range r.Outputs {
		size := ""
		if o.Size > 0 {
			size = bytesText(o.Size)
		}
		errs = append(errs, fprintf(table, "  %s\t%s (%s)\t%s\n", quoted(o.Path), o.Kind, o.Detail, size))
	}
	return errors.Join(append(errs, table.Flush())...)
}

func fprintf(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// printJSON writes an object a line: the tree, then each output.
func printJSON(enc *json.Encoder, r *export.Report) error {
	err := enc.Encode(struct {
		Type    string   `json:"type"`
		Layers  []string `json:"layers"` // bottom to top
		Entries int64    `json:"entries"`
		Content int64    `json:"content"` // bytes
	}{"tree", r.Layers, r.Entries, r.Content})
	for _, o := range r.Outputs {
		err = errors.Join(err, enc.Encode(struct {
			Type   string `json:"type"`
			Kind   string `json:"kind"`
			Path   string `json:"path"`
			Bytes  []byte `json:"path_bytes,omitempty"`
			Size   int64  `json:"size,omitempty"` // bytes
			Detail string `json:"detail"`
		}{"output", o.Kind, o.Path, notUTF8(o.Path), o.Size, o.Detail}))
	}
	return err
}
