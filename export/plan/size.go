package plan

import "fmt"

// SizeError says that the content doesn't fit the size that was asked for an
// image, and which it does, both in bytes.
type SizeError struct{ Size, Need int64 }

// Error tells both sizes.
func (e *SizeError) Error() string {
	return fmt.Sprintf("the content does not fit an image of %d bytes, it needs %d (%d MiB)", e.Size, e.Need, (e.Need+1<<20-1)>>20)
}
