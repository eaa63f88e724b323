/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Bandwidth limits of pods: a token bucket per device and direction.
 * It polices: there is no queue (pacing by departure time would need an FQ qdisc on the device). Congestion is signalled by ECN before the bucket is empty, where
 * the flow understands it, and by loss when it is. */
#pragma once

#include "base.h"

#define BANDWIDTH_IN 0 /* towards the pod */
#define BANDWIDTH_OUT 1 /* from the pod */

struct bandwidth_key {
	__u32 ifindex;
	__u32 direction; /* BANDWIDTH_* */
};

struct bandwidth {
	struct bpf_spin_lock lock; /* guards tokens and last */
	__u32 pad;
	__u64 rate; /* bytes per second */
	__u64 burst; /* bytes */
	__u64 tokens; /* bytes */
	__u64 last; /* ns, bpf_ktime_get_ns */
};
_Static_assert(sizeof(struct bandwidth) == 40, "bandwidth is 40 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct bandwidth_key);
	__type(value, struct bandwidth);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} bandwidths SEC(".maps");

/* bandwidth_admit takes skb's bytes from the bucket and returns 1, or returns 0 when they are not there. A device without a bucket has no limit. */
inline_fn int bandwidth_admit(struct __sk_buff *skb, __u32 ifindex, __u32 direction)
{
	struct bandwidth_key k = { .ifindex = ifindex, .direction = direction };
	struct bandwidth *b = bpf_map_lookup_elem(&bandwidths, &k);
	__u64 now, elapsed, tokens, len = skb->len, burst;
	int ok = 0;

	if (!b)
		return 1;
	burst = b->burst;
	now = bpf_ktime_get_ns();
	bpf_spin_lock(&b->lock);
	tokens = b->tokens;
	elapsed = now > b->last ? now - b->last : 0;
	if (elapsed >= 1000000000ULL)
		tokens = burst; /* a second refills every bucket: burst is at most a second's worth */
	else
		tokens += (b->rate * (elapsed >> 10)) / 976563; /* 1e9 >> 10: no overflow up to 140 Tbit/s */
	if (tokens > burst)
		tokens = burst;
	if (elapsed >= 1024 || now <= b->last)
		b->last = now - (now > b->last ? elapsed & 1023 : 0);
	if (tokens >= len) {
		tokens -= len;
		ok = 1;
	}
	b->tokens = tokens;
	bpf_spin_unlock(&b->lock);
	if (ok && tokens < burst / 4)
		bpf_skb_ecn_set_ce(skb);
	return ok;
}
