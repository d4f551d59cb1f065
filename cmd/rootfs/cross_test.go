package main

import (
	"debug/elf"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// goPackage is a project whose program is in Go, which needs nothing but itself
// to build for another machine.
const goPackage = `
-- rootfs.toml --
arch = "ARCH"
-- user/apps/hello/package.toml --
command = '''
case $ARCH in
x86_64) GOARCH=amd64 ;; aarch64) GOARCH=arm64 ;; loongarch64) GOARCH=loong64 ;;
*) GOARCH=$ARCH ;;
esac
export GOARCH CGO_ENABLED=0
go build -trimpath -o "$DESTDIR/usr/bin/hello" .
'''
tools = ["go"]
-- user/apps/hello/go.mod --
module example.org/hello
-- user/apps/hello/hello.go --
package main

func main() { println("hello") }
`

// arch decides what recipes build for and what the images say, and nothing in
// the tree is for another machine.
func TestCrossArchitectures(t *testing.T) {
	need(t, "go", "skopeo")
	t.Setenv("GOCACHE", filepath.Join(userCache, "go-build")) // ten seconds the first time
	for arch, want := range map[string]struct {
		goarch  string
		machine elf.Machine
	}{
		"riscv64": {"riscv64", elf.EM_RISCV},
		"aarch64": {"arm64", elf.EM_AARCH64},
	} {
		t.Run(arch, func(t *testing.T) {
			project := layProject(t, strings.Replace(goPackage, "ARCH", arch, 1))
			rootfs(t, project, "-q", "export", "--strict", "--docker", "out/image.tar", "--oci", "out/oci", "--tar", "out/layer.tar")
			for _, image := range []string{"docker-archive:out/image.tar", "oci:out/oci"} {
				var config struct{ OS, Architecture string }
				text := sh(t, project, `skopeo inspect --override-arch `+want.goarch+` --config `+image)
				if err := json.Unmarshal([]byte(text), &config); err != nil || config.OS != "linux" || config.Architecture != want.goarch {
					t.Errorf("%s says %+v, %v", image, config, err)
				}
			}
			program, err := elf.NewFile(strings.NewReader(rootfs(t, project, "image", "cat", "out/layer.tar", "/usr/bin/hello")))
			if err != nil || program.Machine != want.machine {
				t.Errorf("the program: %v, %v", program, err)
			}
		})
	}
}
