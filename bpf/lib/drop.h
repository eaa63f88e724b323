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

/* While somebody listens (flctl monitor), each dropped packet is told with its beginning. */
#define DROP_HEAD 96
struct drop_event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	__u32 reason; /* enum drop_reason */
	__u32 ifindex; /* where the packet came in, or in egress programs where it was to go out */
	__u32 len; /* of the packet, bytes */
	__u32 head_len; /* bytes of head that are the packet's, from its Ethernet header on */
	__u8 head[DROP_HEAD];
};
_Static_assert(sizeof(struct drop_event) == 120, "drop_event is 120 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144); /* bytes */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} drop_events SEC(".maps");

/* The process that listens to drop_events; 0: nobody, and nothing is written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} drop_listener SEC(".maps");

inline_fn int drop_listened(void)
{
	__u32 zero = 0, *pid = bpf_map_lookup_elem(&drop_listener, &zero);

	return pid && *pid;
}

/* drop_at counts a packet that a tc program drops, tells of it as seen at the device ifindex, and returns the verdict. */
static __noinline int drop_at(struct __sk_buff *skb, __u32 reason, __u32 ifindex)
{
	__u64 n = skb->len;
	struct drop_event *e;

	drop_count(reason, skb->len);
	if (likely(!drop_listened()))
		return TCX_DROP;
	e = bpf_ringbuf_reserve(&drop_events, sizeof(*e), 0);
	if (!e)
		return TCX_DROP;
	e->time = bpf_ktime_get_ns();
	e->reason = reason;
	e->ifindex = ifindex;
	e->len = skb->len;
	e->head_len = 0;
	/* Two comparisons of the very register that becomes the length: of anything cleverer, which the compiler would make of them, verifiers before 6.8 learn no lower bound. */
	if (n > DROP_HEAD)
		n = DROP_HEAD;
	asm volatile("" : "+r"(n));
	if (n < 14)
		goto out;
	asm volatile("" : "+r"(n));
	if (n <= DROP_HEAD && !bpf_skb_load_bytes(skb, 0, e->head, n))
		e->head_len = n;
out:
	bpf_ringbuf_submit(e, 0);
	return TCX_DROP;
}

/* drop_skb is drop_at for the device that the packet is at. */
inline_fn int drop_skb(struct __sk_buff *skb, __u32 reason)
{
	return drop_at(skb, reason, skb->ifindex);
}

/* drop_xdp is drop_skb for XDP programs. */
static __noinline int drop_xdp(struct xdp_md *ctx, __u32 reason)
{
	long data = ctx->data, end = ctx->data_end;
	__u32 i, len;
	__u8 *p;
	struct drop_event *e;

	asm volatile("" : "+r"(data), "+r"(end)); /* keeps the subtraction to itself: pointers take only 64-bit arithmetic */
	len = end - data;
	asm volatile("" : "+r"(len));
	drop_count(reason, len);
	if (likely(!drop_listened()))
		return XDP_DROP;
	e = bpf_ringbuf_reserve(&drop_events, sizeof(*e), 0);
	if (!e)
		return XDP_DROP;
	e->time = bpf_ktime_get_ns();
	e->reason = reason;
	e->ifindex = ctx->ingress_ifindex;
	e->len = len;
	for (i = 0; i < DROP_HEAD; i++) {
		p = (void *)(long)ctx->data + i;
		if ((void *)(p + 1) > (void *)(long)ctx->data_end)
			break;
		e->head[i] = *p;
	}
	e->head_len = i;
	bpf_ringbuf_submit(e, 0);
	return XDP_DROP;
}
