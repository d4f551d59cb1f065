package export

import (
	"fmt"
	"slices"
	"testing"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// A large directory is read in parts, by several goroutines; what is visited
// has the order of the names, with folders before what is in them.
func TestWalkLargeDirectory(t *testing.T) {
	var lines []string
	want := []string{".", "large"}
	for i := range 3*partSize + 1 {
		name := fmt.Sprintf("large/%04d", i)
		want = append(want, name)
		if i%100 == 0 {
			name += "/below"
			want = append(want, name)
		}
		lines = append(lines, name)
	}
	var got []string
	err := Walk(t.Context(), configTree(t, lines...), nil, func(e *overlay.Entry) error {
		got = append(got, e.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("visited %d entries, want %d in the order of their names", len(got), len(want))
	}
}
