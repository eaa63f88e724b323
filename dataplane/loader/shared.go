// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Shared maps a BPF_F_MMAPABLE array into memory: element i of the returned slice is the map's value i, and a store is seen by programs at once.
// T must be the generated type of the map's value. Programs read while user space writes: order writes so that a row is complete before anything
// refers to it. Call unmap when done; the map itself need not stay open.
func Shared[T any](m *ebpf.Map) (rows []T, unmap func() error, err error) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if size != int(m.ValueSize()) || size%8 != 0 {
		return nil, nil, fmt.Errorf("map %s: value size %d does not match a Go type of %d bytes", m, m.ValueSize(), size)
	}
	n := int(m.MaxEntries())
	mem, err := unix.Mmap(m.FD(), 0, n*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n), func() error { return unix.Munmap(mem) }, nil
}

// Addr returns the datapath's form of an address: IPv6, or IPv4-mapped.
func Addr(as16 [16]byte) BPFAddr { return BPFAddr{B: as16} }

// Htons returns v in network byte order, as the datapath's port fields hold it.
func Htons(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}

// Ntohs is the inverse of Htons.
func Ntohs(v uint16) uint16 { return Htons(v) }
