// Command rootfs shows built packages and configuration as one live root
// filesystem, lets any program edit it, and exports it as a tar, a container
// image or a disk image.
//
// One file holds one verb: its flags, the call that does the work and what is
// said about it. Data goes to stdout; messages and progress go to stderr.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args, streams{out: os.Stdout, err: os.Stderr}))
}
