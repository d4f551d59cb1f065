package overlay

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// ELFHead is how much of an ELF file tells its machine, in bytes: e_ident,
// e_type, e_machine (elf(5)).
const ELFHead = 20

// machines of the architectures (ELF header, e_machine).
var machines = map[string]elf.Machine{
	"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64,
	"riscv64": elf.EM_RISCV, "loongarch64": elf.EM_LOONGARCH,
}

// ForeignMachine names the machine that an ELF file is for which starts with
// head. It is "" for that of arch, for programs that the kernel interprets on
// any, and for what is no ELF file.
func ForeignMachine(head []byte, arch string) string {
	if len(head) < ELFHead || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	m := elf.Machine(order.Uint16(head[18:]))
	if m == machines[arch] || m == elf.EM_BPF {
		return ""
	}
	return strings.TrimPrefix(m.String(), "EM_")
}
