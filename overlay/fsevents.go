package overlay

import "github.com/fsnotify/fsnotify"

// folderEvents is an fsnotify watcher that survives what its users do to folders.
type folderEvents struct{ *fsnotify.Watcher }

// Remove ends the watch of a path. fsnotify 1.10.1 panics in it, though all is in
// order afterwards, when the path was added a second time after it had become
// another name of a watched folder: a symlink to it, or it was moved there.
func (e folderEvents) Remove(path string) (err error) {
	defer func() {
		if recover() != nil {
			err = fsnotify.ErrNonExistentWatch
		}
	}()
	return e.Watcher.Remove(path)
}
