/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Writing a translated tuple into a packet: addresses, ports, checksums; in XDP by direct access, in tc by helpers, which know about
 * checksum offload and shared buffers. */
#pragma once

#include "ctx.h"
#include "types.h"

/* tuple is what a packet's header shall say. */
struct tuple {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
};

inline_fn __u64 addr_diff(const struct addr *from, const struct addr *to, int is4)
{
	__u64 d = (__u64)(__u32)~from->w[3] + to->w[3];

	if (!is4) {
		d += (__u64)(__u32)~from->w[0] + to->w[0];
		d += (__u64)(__u32)~from->w[1] + to->w[1];
		d += (__u64)(__u32)~from->w[2] + to->w[2];
	}
	return d;
}

inline_fn __u64 port_diff(__be16 from, __be16 to)
{
	return (__u64)(__u16)~from + to;
}

/* l4_has_ports says whether rewriting ports is possible at all, and l4_check where the transport checksum is (0: none that we mend). */
inline_fn __u32 l4_check(const struct flow *f)
{
	if (f->frag == FLOW_FRAG_LATER)
		return 0;
	if (f->proto == IPPROTO_TCP)
		return offsetof(struct tcphdr, check);
	if (f->proto == IPPROTO_UDP)
		return offsetof(struct udphdr, check);
	return 0;
}

#ifdef CTX_XDP

/* rewrite makes the packet f carry the tuple t, and updates f. Returns 0 or a drop reason. */
static __noinline int rewrite(ctx_t *ctx, struct flow *f, const struct tuple *t)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	int is4 = f->family == AF_INET;
	__u64 adiff = addr_diff(&f->saddr, &t->saddr, is4) + addr_diff(&f->daddr, &t->daddr, is4);
	__u64 pdiff = port_diff(f->sport, t->sport) + port_diff(f->dport, t->dport);
	__u32 check = l4_check(f);
	__u8 *l3 = data + (f->l3_off & OFF_MASK);
	__u8 *l4 = data + (f->l4_off & OFF_MASK);

	if (is4) {
		struct iphdr *ip = (void *)l3;

		if ((void *)(ip + 1) > data_end)
			return drop_malformed;
		ip->saddr = t->saddr.w[3];
		ip->daddr = t->daddr.w[3];
		ip->check = csum_apply(ip->check, adiff);
	} else {
		struct ipv6hdr *ip = (void *)l3;

		if ((void *)(ip + 1) > data_end)
			return drop_malformed;
		memcpy(ip->saddr.s6_addr32, t->saddr.w, 16);
		memcpy(ip->daddr.s6_addr32, t->daddr.w, 16);
	}
	if (f->frag != FLOW_FRAG_LATER) {
		if ((void *)(l4 + 4) > data_end)
			return drop_malformed;
		((__be16 *)l4)[0] = t->sport;
		((__be16 *)l4)[1] = t->dport;
		if (check == offsetof(struct tcphdr, check)) {
			if ((void *)(l4 + sizeof(struct tcphdr)) > data_end)
				return drop_malformed;
			((struct tcphdr *)l4)->check = csum_apply(((struct tcphdr *)l4)->check, adiff + pdiff);
		} else if (check) {
			struct udphdr *u = (void *)l4;

			if ((void *)(u + 1) > data_end)
				return drop_malformed;
			if (u->check) {
				u->check = csum_apply(u->check, adiff + pdiff);
				if (!u->check)
					u->check = 0xffff;
			}
		}
	}
	f->saddr = t->saddr;
	f->daddr = t->daddr;
	f->sport = t->sport;
	f->dport = t->dport;
	return 0;
}

#else

/* In tc the transport checksum is left to helpers, which know whether a device will finish it; the rest is written directly. parse_skb has made the headers linear. */
static __noinline int rewrite(ctx_t *ctx, struct flow *f, const struct tuple *t)
{
	int is4 = f->family == AF_INET;
	__u64 adiff = addr_diff(&f->saddr, &t->saddr, is4) + addr_diff(&f->daddr, &t->daddr, is4);
	__u64 pdiff = port_diff(f->sport, t->sport) + port_diff(f->dport, t->dport);
	__u32 check = l4_check(f);
	__u64 flags = f->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	void *data, *data_end;
	__u8 *l3, *l4;

	if (check) {
		check += f->l4_off;
		if (bpf_l4_csum_replace(ctx, check, 0, csum_fold32(adiff), flags | BPF_F_PSEUDO_HDR | (is4 ? 0 : cfg_l4_csum_ipv6)))
			return drop_write;
		if (csum_fold(pdiff) != 0xffff && bpf_l4_csum_replace(ctx, check, 0, csum_fold32(pdiff), flags))
			return drop_write;
	}
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	l3 = data + (f->l3_off & OFF_MASK);
	l4 = data + (f->l4_off & OFF_MASK);
	if (is4) {
		struct iphdr *ip = (void *)l3;

		if ((void *)(ip + 1) > data_end)
			return drop_write;
		ip->saddr = t->saddr.w[3];
		ip->daddr = t->daddr.w[3];
		ip->check = csum_apply(ip->check, adiff);
	} else {
		struct ipv6hdr *ip = (void *)l3;

		if ((void *)(ip + 1) > data_end)
			return drop_write;
		memcpy(ip->saddr.s6_addr32, t->saddr.w, 16);
		memcpy(ip->daddr.s6_addr32, t->daddr.w, 16);
	}
	if (f->frag != FLOW_FRAG_LATER) {
		if ((void *)(l4 + 4) > data_end)
			return drop_write;
		((__be16 *)l4)[0] = t->sport;
		((__be16 *)l4)[1] = t->dport;
	}
	f->saddr = t->saddr;
	f->daddr = t->daddr;
	f->sport = t->sport;
	f->dport = t->dport;
	return 0;
}

#endif
