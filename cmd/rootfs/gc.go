package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func gcCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "drop checkpoints that nobody named, and keep what the project shows",
		Description: "Exports of a mount in which programs write leave such checkpoints. Their edits are merged\n" +
			"into the next ones; nothing is copied. The project must not be mounted.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "drop those with a name, too: log and restore know none then"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef(c, "it takes no arguments")
			}
			project, err := findProject(c)
			if err != nil {
				return err
			}
			all := c.Bool("all")
			dropped, err := project.Squash(func(cp overlay.Checkpoint) bool { return all || cp.Name == "" })
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return json.NewEncoder(std.out).Encode(map[string][]overlay.Checkpoint{"dropped": append([]overlay.Checkpoint{}, dropped...)})
			}
			if !c.Bool("q") {
				_, err = fmt.Fprintf(std.err, "checkpoints dropped: %d\n", len(dropped))
			}
			return err
		},
	}
}
