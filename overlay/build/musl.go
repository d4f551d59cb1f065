package build

import (
	"os"
	"path/filepath"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// hostInclude is where Debian and others have headers.
const hostInclude = "/usr/include"

// kernelHeaders returns a folder with nothing but the kernel's headers, for a
// compiler of musl that comes without them, as Debian's: packages of a DragonOS
// checkout are written for one that has them. It is "" where that isn't needed.
func kernelHeaders(p *overlay.Project) (string, error) {
	arch := p.Manifest.Arch
	musl := filepath.Join(hostInclude, arch+"-linux-musl")
	if !p.IsCheckout() || arch != hostArch() || !isThere(musl) || isThere(filepath.Join(musl, "linux")) {
		return "", nil
	}
	dir := filepath.Join(p.StateDir(), "kernel-headers")
	for _, name := range []string{"linux", "asm", "asm-generic"} {
		source := filepath.Join(hostInclude, arch+"-linux-gnu", name)
		if !isThere(source) {
			source = filepath.Join(hostInclude, name)
		}
		if err := switchLink(filepath.Join(dir, name), source); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func isThere(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
