// Package build makes packages by their recipes.
//
// [Run] builds those packages of a project whose inputs have changed: the
// files of the package's folder (its recipe is one), the outputs of the
// packages that it depends on, the architecture, the variables that the recipe
// names and the versions of its tools. Inputs are compared by content; of
// files whose size, times and inode number are as before, the content is
// known without reading.
//
// A command runs in the package's folder and may leave files there, as make
// does. What was not there before the build is the build's own, and no input,
// until somebody else writes to it.
//
// # On disk
//
// All is in the project's state folder, by architecture, or variant of the
// project ([overlay.Project.Variant]), where it depends on that:
//
//	packages/VARIANT/NAME    a link to the package's output, which layers follow
//	outputs/ARCH/NAME-HASH/  outputs, by the hash of what is in them
//	staging/NAME/            DESTDIR and TMPDIR of a build
//	builds/NAME              what is remembered (record.go)
//	logs/NAME.log            what the last command said
//	build.lock               held by the one who builds
//
// Who shows an output holds a lock on it; it then isn't removed ([Collect], or a
// build when there are more than a few).
//
// A build that fails changes none of the first two, so that its package stays
// what it was.
package build
