package overlay

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/xattr"
)

func TestACLText(t *testing.T) {
	const short = "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000600ffffffff 20000000ffffffff"
	for text, want := range map[string]string{
		"user::rw-,user:1000:r--,group::r--,mask::rw-,other::---":     short,
		"user::rw-\nuser:joe:r--:1000\ngroup::r--\nmask:rw-\nother:-": short,
		"o::---,m::rw-,g::r--,u:1000:r--,u::rw- # comment":            short,
		"":              "",
		"user:joe:r--":  errACLName.Error(),
		"user::rwz":     errACL.Error(),
		"mask:1000:rwx": errACL.Error(),
		"nobody::rwx":   errACL.Error(),
		"user":          errACL.Error(),
	} {
		value, err := parseACL(text)
		got := fmt.Sprintf("%x", value)
		for _, e := range []error{errACL, errACLName} {
			if errors.Is(err, e) {
				got = e.Error()
			}
		}
		if got != strings.ReplaceAll(want, " ", "") && got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// GNU tar writes an id where the machine has no name for it.
func TestUnpackKeepsTheACLsThatGNUTarWrites(t *testing.T) {
	needTool(t, "tar")
	src := t.TempDir()
	plant(t, src, "file")
	file := filepath.Join(src, "file")
	value, err := parseACL("user::rw-,user:70001:r--,group::r--,group:70002:rwx,mask::rwx,other::r--")
	must(t, err)
	if err := xattr.Set(file, "system.posix_acl_access", []byte(value)); err != nil {
		t.Skipf("SKIPPED, needs a file system with ACLs: %v", err)
	}
	archive := filepath.Join(t.TempDir(), "archive")
	run(t, "tar", "-C", src, "--acls", "--format=posix", "-cf", archive, "file")
	dirs, err := unpackPath(t, archive, "")
	must(t, err)
	kept, err := xattr.Get(filepath.Join(dirs[0], "file"), xattrForeign+"system.posix_acl_access")
	if err != nil || string(kept) != value {
		t.Errorf("got %x (%v), want %x", kept, err, value)
	}
}
