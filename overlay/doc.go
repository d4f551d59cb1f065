// Package overlay shows a project's layers and edits as one root filesystem.
//
// A [Project] is a folder with packages, configuration and a manifest. Opened,
// it is a [Tree]: read-only layers, merged from the bottom up by the rules in
// stack.go, below a writable layer of edits that lives in the project's state
// directory. The tree is read and changed through [Node] values, which are
// inodes; the mount and the exporters use the same methods, so what one shows
// the other writes. The package knows neither FUSE nor disk images.
//
// # Layers
//
// A plain layer is a directory that a person or a build made: everything in
// it belongs to root, and neither the person's umask nor uid shows. A
// recorded layer (record.go) keeps owners, devices and whiteouts in extended
// attributes, so that it is the same for an unprivileged user. Archives are
// unpacked into recorded layers; the edits are one. The newest is writable:
//
//	edits           recorded, writable
//	rootfs.toml     recorded, made from the manifest's [[file]] and remove
//	user/sysconfig  plain
//	user/apps/…     plain, or recorded when an archive
//	base            plain, or recorded when an archive
//
// [Directories] stand in for a project: its layers are shown with the host's
// owners, and the edits are one directory.
//
// # Concurrency
//
// All methods of Tree are safe for concurrent use. One lock covers the names:
// changing operations hold it exclusively, looking ones shared. Contents are
// read, written and copied up without it. The order of locks is Tree.freeze,
// Node.up, Tree.mu, directory.mu, then the caches' own.
//
// # Errors
//
// Methods of Tree return errors that wrap a [syscall.Errno], to be found with
// [errors.As]; a bare one is an ordinary answer such as ENOENT, a wrapped one
// names the host path that failed.
package overlay
