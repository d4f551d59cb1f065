package main

import (
	"encoding/binary"
	"fmt"

	"github.com/urfave/cli/v2"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

func setcapCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "setcap",
		Usage:     "give programs capabilities, which the kernel lets only root do",
		ArgsUsage: "CAPS|-r PATH…",
		Description: "CAPS are written as in setcap(8): cap_net_raw+ep. Paths are those of the root filesystem:\n" +
			"/usr/bin/ping.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "remove", Aliases: []string{"r"}, Usage: "take all capabilities away"},
		},
		Action: func(c *cli.Context) error {
			r := &controlRequest{Op: "setcap"}
			paths := c.Args().Slice()
			if !c.Bool("remove") {
				if len(paths) == 0 {
					return usagef(c, "give capabilities and the programs")
				}
				var err error
				if r.Capability, err = packCapabilities(paths[0]); err != nil {
					return usagef(c, "%v", err)
				}
				paths = paths[1:]
			}
			if len(paths) == 0 {
				return usagef(c, "name the programs")
			}
			project, err := findProject(c)
			if err != nil {
				return err
			}
			r.Paths = rootPaths(paths)
			_, err = edit(project, logger(c, std.err), r)
			return err
		},
	}
}

// Of a vfs_cap_data (include/uapi/linux/capability.h).
const (
	capRevision2    = 0x02000000
	capEffectiveBit = 1
)

// packCapabilities makes a vfs_cap_data of revision 2 out of the text form of
// capabilities (cap_from_text(3)). A program has one effective bit for all.
func packCapabilities(text string) ([]byte, error) {
	set, err := cap.FromText(text)
	if err != nil {
		return nil, fmt.Errorf("%s: not capabilities such as cap_net_raw+ep", quoted(text))
	}
	var permitted, inheritable, effective uint64
	for v := range cap.Value(64) {
		for _, f := range []struct {
			flag cap.Flag
			bits *uint64
		}{{cap.Permitted, &permitted}, {cap.Inheritable, &inheritable}, {cap.Effective, &effective}} {
			if on, err := set.GetFlag(f.flag, v); err == nil && on {
				*f.bits |= 1 << v
			}
		}
	}
	if effective != 0 && effective != permitted|inheritable {
		return nil, fmt.Errorf("%s: the effective flag holds for all capabilities of a program or for none", quoted(text))
	}
	magic := uint32(capRevision2)
	if effective != 0 {
		magic |= capEffectiveBit
	}
	b := binary.LittleEndian.AppendUint32(nil, magic)
	for shift := 0; shift < 64; shift += 32 {
		b = binary.LittleEndian.AppendUint32(b, uint32(permitted>>shift))
		b = binary.LittleEndian.AppendUint32(b, uint32(inheritable>>shift))
	}
	return b, nil
}
