package export

import (
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// What goes while it is being compared is nothing that differs.
func TestDiffOfWhatGoesMeanwhile(t *testing.T) {
	layers := configTree(t, "etc/issue hello")
	p := layers.Project()
	edit(t, p, func(tree *overlay.Tree) error {
		return errors.Join(tree.MakeNode("/one", unix.S_IFIFO|0o644, 0, overlay.Owner{}),
			tree.MakeNode("/two", unix.S_IFIFO|0o644, 0, overlay.Owner{}))
	})
	now, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, now)
	var got []string
	err = DiffTrees(t.Context(), layers, now, ".", func(c *Change) error {
		got = append(got, c.Path)
		return os.RemoveAll(p.StateFile("edits/0001/root/two"))
	})
	if err != nil || !slices.Equal(got, []string{"one"}) {
		t.Errorf("%q differ, error %v", got, err)
	}
}
