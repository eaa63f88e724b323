/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The devices where traffic from outside arrives, at the driver: what needs no more than a rewrite and a known next hop is done here, and sent out of the same
 * device (XDP_TX) or of one listed in xdp_devices. Everything else goes on, untouched, to uplink.c, which decides the same: conntrack and
 * selection are shared. Tagged frames are left to the VLAN device's own programs. */
#define CTX_XDP
#include "lib/dsr.h"

/* Devices that packets can be redirected to from XDP (their driver transmits XDP frames). */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} xdp_devices SEC(".maps");

/* 1: send back by redirection instead of XDP_TX. veth wakes the receiver of XDP_TX frames only if that has an XDP program of its own. */
const volatile __u8 cfg_xdp_no_tx;

inline_fn int send_back(struct xdp_md *ctx)
{
	if (cfg_xdp_no_tx)
		return bpf_redirect_map(&xdp_devices, ctx->ingress_ifindex, XDP_TX);
	return XDP_TX;
}

inline_fn void dec_ttl(struct iphdr *ip)
{
	__u16 old = *(__u16 *)&ip->ttl, new;

	ip->ttl--;
	new = *(__u16 *)&ip->ttl;
	ip->check = csum_apply(ip->check, (__u64)(__u16)~old + new);
}

/* send_out rewrites the packet to t, or with dsr dispatches it there, and sends it to the next hop, if the route and the neighbour are known and XDP can transmit there; else it
 * returns XDP_PASS with the packet untouched. */
inline_fn int send_out(struct xdp_md *ctx, struct flow *f, const struct tuple *t, int dsr)
{
	struct bpf_fib_lookup fib = {};
	struct ethhdr *eth;
	void *data_end;
	__u32 out;
	int r;

	if (f->ttl <= 1)
		return XDP_PASS;
	fib.ifindex = ctx->ingress_ifindex;
	fib.l4_protocol = f->proto;
	fib.tot_len = f->l3_len + (dsr ? dsr_overhead(f->family) : 0);
	if (f->family == AF_INET) {
		fib.family = AF_INET;
		fib.tos = f->tos;
		fib.ipv4_src = t->saddr.w[3];
		fib.ipv4_dst = t->daddr.w[3];
	} else {
		fib.family = AF_INET6;
		memcpy(fib.ipv6_src, t->saddr.w, 16);
		memcpy(fib.ipv6_dst, t->daddr.w, 16);
	}
	r = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (r != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	out = fib.ifindex;
	if (out != ctx->ingress_ifindex && !bpf_map_lookup_elem(&xdp_devices, &out))
		return XDP_PASS;
	if (!dsr) {
		r = rewrite(ctx, f, t);
		if (r)
			return drop_xdp(ctx, r);
	}
	eth = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	if ((void *)(eth + 1) + sizeof(struct ipv6hdr) > data_end && f->family != AF_INET)
		return drop_xdp(ctx, drop_malformed);
	if ((void *)(eth + 1) + sizeof(struct iphdr) > data_end)
		return drop_xdp(ctx, drop_malformed);
	if (f->family == AF_INET)
		dec_ttl((void *)(eth + 1));
	else if ((void *)(eth + 1) + sizeof(struct ipv6hdr) <= data_end)
		((struct ipv6hdr *)(eth + 1))->hop_limit--;
	if (unlikely(dsr)) {
		r = dsr_send(ctx, f, t);
		if (r)
			return drop_xdp(ctx, r);
		eth = (void *)(long)ctx->data;
		if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
			return drop_xdp(ctx, drop_malformed);
	}
	memcpy(eth->h_dest, fib.dmac, 6);
	memcpy(eth->h_source, fib.smac, 6);
	drop_count(drop_none, ctx_len(ctx));
	if (out == ctx->ingress_ifindex)
		return send_back(ctx);
	return bpf_redirect_map(&xdp_devices, out, XDP_DROP);
}

inline_fn int uplink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct lb_decision d = {};
	struct flow f;
	__u16 port;
	int r;

	if (parse_eth(data, data_end, &f) != parse_ok || !vip_filter_has(&f.daddr) || f.l3_off != sizeof(struct ethhdr) || unlikely(dsr_candidate(&f)))
		return XDP_PASS;
	if (unlikely(f.frag || flow_is_icmp_error(&f)))
		return XDP_PASS;
	port = bpf_ntohs(f.dport);
	if (lb_snat_port(f.proto, port) && lb_reverse_find(&f, &d.t) == lb_done) {
		lb_count(lb_returned);
		return send_out(ctx, &f, &d.t, 0);
	}
	r = lb_decide(&f, LB_FROM_WIRE, &d);
	if (r == lb_none)
		return XDP_PASS;
	if (r == lb_reply) {
		r = lb_answer(ctx, &f);
		if (r == lb_reply)
			return send_back(ctx);
	}
	if (r < 0)
		return drop_xdp(ctx, -r);
	if (!d.on_node) {
		r = send_out(ctx, &f, &d.t, d.dsr);
		if (r != XDP_PASS)
			lb_count(lb_forwarded);
		return r;
	}
	lb_count(lb_forwarded);
	r = rewrite(ctx, &f, &d.t);
	return r ? drop_xdp(ctx, r) : XDP_PASS;
}

SEC("xdp")
int uplink_xdp(struct xdp_md *ctx)
{
	return uplink(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
