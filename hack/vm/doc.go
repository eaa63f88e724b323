// SPDX-License-Identifier: Apache-2.0

// Package vm boots Debian's kernels under qemu and runs test executables in them: other verifiers than the machine's own, and hosts that have
// cgroup version 2 only. `make test-vm` runs it.
//
//	Kernel        a package of Debian, unpacked, never installed
//	Image         kernel modules, a static init (hack/vm/init), the executables and their libraries, as one initramfs (cpio, newc)
//	Boot          qemu, emulating the processor; the serial console is the log
//
// The machine has no network at all. It ends by itself; Boot kills it after a time limit.
package vm
