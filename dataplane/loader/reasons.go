// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// EnumNames returns the names of a C enum of bpf/abi.c by value, without the given prefix: EnumNames("drop_reason", "drop_")[3] is
// "no_backend". The object's own type information is the source, so names are never typed twice.
func EnumNames(enum, prefix string) (map[uint64]string, error) {
	spec, err := LoadBPF()
	if err != nil {
		return nil, err
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName(enum, &e); err != nil {
		return nil, fmt.Errorf("enum %s: %w", enum, err)
	}
	names := make(map[uint64]string, len(e.Values))
	for _, v := range e.Values {
		names[v.Value] = strings.TrimPrefix(v.Name, prefix)
	}
	return names, nil
}

// DropReasons returns the names of the drop reasons by value.
func DropReasons() (map[uint64]string, error) { return EnumNames("drop_reason", "drop_") }
