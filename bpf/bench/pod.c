/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Programs for hack/bench/xdp: from_pod on a packet that is made anew before each repeat of a test run. Never attached to anything. */
#include "../pod.c"

#define BENCH_FRAME 80 /* bytes of the packet, on the wire */

/* Set by user space before a test run. */
__u8 bench_frame[BENCH_FRAME];
__u32 bench_next; /* number of the next flow */
__u32 bench_mask; /* flows - 1, a power of two less one; all ones: never the same flow again */

/* restore writes the packet of the next flow: only the source port differs, since a pod has one address. */
inline_fn int restore(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	__u32 n = bench_next++ & bench_mask;

	if (data + BENCH_FRAME > data_end)
		return -1;
	memcpy(data, bench_frame, BENCH_FRAME);
	*(__be16 *)(data + sizeof(struct ethhdr) + sizeof(struct iphdr)) = bpf_htons(1024 + (n & 0x7fff));
	return 0;
}

SEC("tcx/ingress")
int bench_empty(struct __sk_buff *skb)
{
	return TCX_NEXT;
}

SEC("tcx/ingress")
int bench_restore(struct __sk_buff *skb)
{
	return restore(skb) ? TCX_DROP : TCX_NEXT;
}

SEC("tcx/ingress")
int bench_pod(struct __sk_buff *skb)
{
	return restore(skb) ? TCX_DROP : pod_out(skb);
}
