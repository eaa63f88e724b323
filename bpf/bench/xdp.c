/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Programs for hack/bench/xdp: uplink_xdp on a packet that is made anew before each repeat of a test run, and smaller programs around the same
 * packet to compare with. Never attached to anything. */
#include "../xdp.c"

#define BENCH_FRAME 80 /* bytes of the packet, on the wire */

/* Set by user space before a test run. */
__u8 bench_frame[BENCH_FRAME]; /* the packet; source port and the source address's last byte are replaced */
__u32 bench_next; /* number of the next flow */
__u32 bench_mask; /* flows - 1, a power of two less one; all ones: never the same flow again */

/* restore writes the packet of the next flow. */
inline_fn int restore(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 n = bench_next++ & bench_mask, l3 = sizeof(struct ethhdr);
	struct ethhdr *eth = data;

	if (data + BENCH_FRAME > data_end)
		return -1;
	memcpy(data, bench_frame, BENCH_FRAME);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		((struct iphdr *)(data + l3))->saddr += bpf_htonl(n >> 14);
		*(__be16 *)(data + l3 + sizeof(struct iphdr)) = bpf_htons(1024 + (n & 0x3fff));
	} else {
		((struct ipv6hdr *)(data + l3))->saddr.s6_addr32[3] += bpf_htonl(n >> 14);
		*(__be16 *)(data + l3 + sizeof(struct ipv6hdr)) = bpf_htons(1024 + (n & 0x3fff));
	}
	return 0;
}

/* What a test run itself costs. */
SEC("xdp")
int bench_empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* What making the packet costs: subtracted from the others. */
SEC("xdp")
int bench_restore(struct xdp_md *ctx)
{
	return restore(ctx) ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp")
int bench_parse(struct xdp_md *ctx)
{
	struct flow f;

	if (restore(ctx) || parse_eth((void *)(long)ctx->data, (void *)(long)ctx->data_end, &f) != parse_ok)
		return XDP_ABORTED;
	return f.dport ? XDP_PASS : XDP_DROP;
}

/* The floor: parses and does one hash lookup. */
SEC("xdp")
int bench_floor(struct xdp_md *ctx)
{
	struct service_key k = {};
	struct flow f;

	if (restore(ctx) || parse_eth((void *)(long)ctx->data, (void *)(long)ctx->data_end, &f) != parse_ok)
		return XDP_ABORTED;
	k.addr = f.daddr;
	k.port = f.dport;
	k.proto = f.proto;
	return bpf_map_lookup_elem(&services, &k) ? XDP_PASS : XDP_DROP;
}

/* Every map lookup of a packet of an established connection, and nothing else. */
SEC("xdp")
int bench_lookups(struct xdp_md *ctx)
{
	struct ct_key k;
	struct flow f;
	struct ct *e;

	if (restore(ctx) || parse_eth((void *)(long)ctx->data, (void *)(long)ctx->data_end, &f) != parse_ok)
		return XDP_ABORTED;
	if (!vip_filter_has(&f.daddr))
		return XDP_DROP;
	ct_key_of(&k, &f);
	e = ct_get(&k);
	if (!e || !backend_at(e->backend))
		return XDP_DROP;
	lb_count(lb_forwarded);
	drop_count(drop_none, 0);
	return XDP_PASS;
}

SEC("xdp")
int bench_uplink(struct xdp_md *ctx)
{
	return restore(ctx) ? XDP_ABORTED : uplink(ctx);
}
