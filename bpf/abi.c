/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* No program: this object exists so that bpf2go generates the Go side of every type that both sides share
 * (package dataplane/loader, prefix BPF), and so that Go reads enum names from its BTF. */
#include "lib/base.h"
#include "lib/addr.h"
#include "lib/drop.h"

/* One global per exported type keeps it in the object's BTF. */
struct addr abi_addr;
struct drop_counter abi_drop_counter;
enum drop_reason abi_drop_reason;
