// SPDX-License-Identifier: Apache-2.0

package loader

// The eBPF objects and their Go bindings. Needs clang-19, llvm-19 (strip), libbpf-dev and linux-libc-dev; run "make generate".
// BPF2GO_CFLAGS in generate.sh are the one set of compiler flags.

//go:generate sh generate.sh abi.c abi BPF -type addr -type drop_counter -type drop_reason
