/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* No program: this object exists so that bpf2go generates the Go side of every type that both sides share
 * (package dataplane/loader, prefix BPF), and so that Go reads enum names from its BTF. */
#include "lib/base.h"
#include "lib/drop.h"
#include "lib/maps.h"

/* One global per exported type that no map mentions keeps it in the object's BTF. */
struct addr abi_addr;
enum drop_reason abi_drop_reason;
struct drop_event abi_drop_event;
enum service_algorithm abi_service_algorithm;
enum ct_state abi_ct_state;
enum lb_counter_index abi_lb_counter_index;
