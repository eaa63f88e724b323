// SPDX-License-Identifier: Apache-2.0

// Package vm boots other kernels than the machine's own under qemu.
//
//	Kernel, Locate   a package of Debian, unpacked, never installed; or a kernel of the caller's
//	Image            an initramfs (cpio, newc): kernel modules, an init (hack/vm/guest), more files
//	Machine          runs test executables and ends: `make test-vm`; it has no network at all, the serial console is the log
//	Guest            stays, sees this machine's files and takes commands (hack/vm/remote): `fairlead sandbox up --kernel`
package vm
