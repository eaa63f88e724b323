/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the node knows of addresses that are not its own pods: longest prefix -> identity, node, how to reach it. */
#pragma once

#include "addr.h"

#define IPCACHE_CLUSTER 1 /* reached with the pod's own address: never masqueraded */
#define IPCACHE_TUNNEL 2 /* reached through the overlay */

struct ipcache_key {
	__u32 prefixlen; /* bits of addr, so an IPv4 prefix counts from 96 */
	struct addr addr;
};
_Static_assert(sizeof(struct ipcache_key) == 20, "ipcache_key is 20 bytes");

struct ipcache_entry {
	__u32 identity; /* for policy; 0: not known */
	__u16 flags; /* IPCACHE_* */
	__u16 mtu; /* of the way through the tunnel, host order; 0: not known */
	struct addr node; /* the node behind the prefix: the tunnel's other end */
};
_Static_assert(sizeof(struct ipcache_entry) == 24, "ipcache_entry is 24 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_entry);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ipcache SEC(".maps");

inline_fn struct ipcache_entry *ipcache_lookup(const struct addr *a)
{
	struct ipcache_key k = { .prefixlen = 128, .addr = *a };

	return bpf_map_lookup_elem(&ipcache, &k);
}
