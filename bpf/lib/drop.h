/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Why a packet was dropped: the one enum, generated to Go as loader.BPFDropReason, and its per-CPU counters.
 * A program never returns a drop verdict without naming its reason through drop_count. */
#pragma once

#include "base.h"

/* Values are stable: append only, never renumber. flctl prints the part after "drop_". */
enum drop_reason {
	drop_none = 0, /* not a drop */
	drop_malformed, /* truncated or self-contradictory headers */
	drop_unsupported_proto, /* a protocol that the requested translation cannot carry */
	drop_no_backend, /* the service exists and has no usable backend */
	drop_no_service, /* a service address, but a port that no service has */
	drop_source_range, /* loadBalancerSourceRanges does not allow the source */
	drop_snat_exhausted, /* no free source port towards this destination */
	drop_ct_full, /* conntrack has no room and the flow cannot do without an entry */
	drop_fragment, /* a later fragment whose first fragment was not seen */
	drop_too_big, /* does not fit the path MTU; the sender was told by ICMP */
	drop_ttl, /* TTL or hop limit ran out here */
	drop_fib, /* no route or no neighbour for the translated packet */
	drop_policy, /* a network policy denies it */
	drop_bandwidth, /* over the pod's bandwidth limit */
	drop_spoofed, /* a pod sent with an address that is not its own */
	drop_no_endpoint, /* addressed to this node's pod range, but no such pod */
	drop_tunnel, /* encapsulation or decapsulation failed */
	drop_write, /* the kernel refused to change the packet */
	drop_internal, /* a state that cannot be; please report */
	drop_reason_count,
};

/* Counts by reason; index is enum drop_reason. Reason 0 counts forwarded packets. */
struct drop_counter {
	__u64 packets;
	__u64 bytes; /* L3 length and up, as the hook sees it */
};
_Static_assert(sizeof(struct drop_counter) == 16, "drop_counter is 16 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct drop_counter);
	__uint(max_entries, 64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} drops SEC(".maps");

inline_fn void drop_count(enum drop_reason reason, __u64 bytes)
{
	__u32 i = reason;
	struct drop_counter *c = bpf_map_lookup_elem(&drops, &i);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}
