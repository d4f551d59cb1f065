package fusefs

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// notOurs are tests of the suite that say nothing about us.
var notOurs = map[string]bool{
	// It expects two locks of one process to conflict; POSIX says that they
	// don't. go-fuse leaves it out as well.
	"FcntlFlockLocksFile": true,
	// Its attribute is larger than ext4, below the edits, can hold.
	"XAttrLarge": true,
}

// go-fuse's own suite must pass through our mount.
func TestPosix(t *testing.T) {
	m := serve(t, project(t, map[string]string{"etc/hostname": "box\n"}), Options{}, nil)
	for name, test := range posixtest.All {
		if notOurs[name] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := m.path(name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			test(t, dir)
		})
	}
}
