package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is what `rootfs version` tells.
type version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Dirty   bool   `json:"dirty,omitempty"` // built from a changed checkout
	Go      string `json:"go"`
	Arch    string `json:"arch"`
}

func versionCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version and the commit it was built from",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(c, "takes no arguments")
			}
			v := readVersion()
			if c.Bool("json") {
				return json.NewEncoder(std.out).Encode(v)
			}
			_, err := fmt.Fprintln(std.out, v)
			return err
		},
	}
}

func readVersion() version {
	v := version{Version: "(devel)", Go: runtime.Version(), Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Dirty = s.Value == "true"
		}
	}
	return v
}

func (v version) String() string {
	commit := ""
	if v.Commit != "" {
		commit = " (" + v.Commit[:min(12, len(v.Commit))]
		if v.Dirty {
			commit += ", changed"
		}
		commit += ")"
	}
	return fmt.Sprintf("rootfs %s%s %s linux/%s", v.Version, commit, v.Go, v.Arch)
}
