/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMP of both families: answering pings to service addresses, telling senders what cannot be done, and carrying errors through translation. */
#pragma once

#include "ct.h"

inline_fn int flow_is_icmp_error(const struct flow *f)
{
	if (f->frag == FLOW_FRAG_LATER)
		return 0;
	if (f->proto == IPPROTO_ICMP)
		return f->icmp_type == 3 || f->icmp_type == 4 || f->icmp_type == 11 || f->icmp_type == 12;
	return f->proto == IPPROTO_ICMPV6 && f->icmp_type >= 1 && f->icmp_type <= 4;
}

inline_fn int flow_is_echo_request(const struct flow *f)
{
	if (f->frag)
		return 0;
	return (f->proto == IPPROTO_ICMP && f->icmp_type == 8) || (f->proto == IPPROTO_ICMPV6 && f->icmp_type == 128);
}

/* What icmp_send says. */
enum icmp_message {
	icmp_port_unreachable = 0,
	icmp_too_big, /* arg is the MTU */
};

/* Messages per CPU and tick (1.07 s) that icmp_send sends; the rest is dropped. */
#define ICMP_LIMIT 1000

struct icmp_budget {
	__u32 tick;
	__u32 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct icmp_budget);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} icmp_budgets SEC(".maps");

inline_fn int icmp_allowed(void)
{
	__u32 zero = 0, now = clock_ticks();
	struct icmp_budget *b = bpf_map_lookup_elem(&icmp_budgets, &zero);

	if (!b)
		return 0;
	if (b->tick != now) {
		b->tick = now;
		b->sent = 0;
	}
	return b->sent++ < ICMP_LIMIT;
}

/* Bytes of the offending packet that a message quotes, from its IP header: a multiple of 4. */
#define ICMP_QUOTE 96

/* Everything icmp_send writes in front of the quoted packet. */
struct icmp_head4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct icmphdr icmp;
} __attribute__((packed));

struct icmp_head6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
} __attribute__((packed));

/* sum_words adds the 32-bit words of the packet from off on, at most ICMP_QUOTE bytes, up to its end. */
inline_fn __u64 sum_words(ctx_t *ctx, __u32 off)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u64 sum = 0;
	int i;

	for (i = 0; i < ICMP_QUOTE / 4; i++) {
		__u32 *w = data + (off & OFF_MASK) + i * 4;

		if ((void *)(w + 1) > data_end)
			break;
		sum += *w;
	}
	return sum;
}

#ifdef CTX_XDP
inline_fn int ctx_cut(ctx_t *ctx, __u32 len)
{
	return bpf_xdp_adjust_tail(ctx, (int)len - (int)ctx_len(ctx));
}

inline_fn int ctx_grow_l3(ctx_t *ctx, __u32 n)
{
	return bpf_xdp_adjust_head(ctx, -(int)n);
}

/* ctx_write_head writes the n bytes at h, a constant, over the beginning of the packet. */
inline_fn int ctx_write_head(ctx_t *ctx, const void *h, const __u32 n)
{
	void *p = (void *)(long)ctx->data;

	if (p + n > (void *)(long)ctx->data_end)
		return -1;
	memcpy(p, h, n);
	return 0;
}
#else
inline_fn int ctx_cut(ctx_t *ctx, __u32 len)
{
	return bpf_skb_change_tail(ctx, len, 0);
}

inline_fn int ctx_grow_l3(ctx_t *ctx, __u32 n)
{
	return bpf_skb_adjust_room(ctx, n, BPF_ADJ_ROOM_MAC, 0);
}

inline_fn int ctx_write_head(ctx_t *ctx, const void *h, const __u32 n)
{
	return bpf_skb_store_bytes(ctx, 0, h, n, 0);
}
#endif

/* icmp_send turns the packet into an ICMP message to its sender, under the address it was sent to. Returns 0 or a drop reason. */
static __noinline int icmp_send(ctx_t *ctx, struct flow *f, enum icmp_message what, __u32 arg)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr eth, *old = data;
	__u32 quote, len = ctx_len(ctx);
	__u64 sum;

	/* Tagged frames, and what RFC 1122 3.2.2 forbids to answer. */
	if (f->l3_off != sizeof(eth) || f->frag == FLOW_FRAG_LATER || (void *)(old + 1) > data_end || old->h_dest[0] & 1)
		return drop_no_service;
	if (!icmp_allowed())
		return drop_no_service;
	memcpy(eth.h_dest, old->h_source, 6);
	memcpy(eth.h_source, old->h_dest, 6);
	eth.h_proto = old->h_proto;
	quote = len - sizeof(eth);
	if (quote > f->l3_len)
		quote = f->l3_len; /* Ethernet padding is no part of the packet */
	if (quote > ICMP_QUOTE)
		quote = ICMP_QUOTE;
	quote &= ~3u;
	if (sizeof(eth) + quote < len && ctx_cut(ctx, sizeof(eth) + quote))
		return drop_write;
	sum = sum_words(ctx, sizeof(eth));
	if (f->family == AF_INET) {
		struct icmp_head4 h = {};

		h.eth = eth;
		h.ip.version = 4;
		h.ip.ihl = 5;
		h.ip.tot_len = bpf_htons(sizeof(h.ip) + sizeof(h.icmp) + quote);
		h.ip.ttl = 64;
		h.ip.protocol = IPPROTO_ICMP;
		h.ip.saddr = f->daddr.w[3];
		h.ip.daddr = f->saddr.w[3];
		h.icmp.type = 3;
		if (what == icmp_too_big) {
			h.icmp.code = 4;
			h.icmp.un.frag.mtu = bpf_htons(arg);
		} else {
			h.icmp.code = 3;
		}
		sum += (__u64)bpf_htons(h.icmp.type << 8 | h.icmp.code) + h.icmp.un.gateway;
		h.icmp.checksum = ~csum_fold(sum);
		h.ip.check = ~csum_fold((__u64)bpf_htons(0x4500) + h.ip.tot_len + bpf_htons(64 << 8 | IPPROTO_ICMP) + h.ip.saddr + h.ip.daddr);
		if (ctx_grow_l3(ctx, sizeof(h.ip) + sizeof(h.icmp)) || ctx_write_head(ctx, &h, sizeof(h)))
			return drop_write;
	} else {
		struct icmp_head6 h = {};
		__u16 n = sizeof(h.icmp) + quote;
		int i;

		h.eth = eth;
		h.ip.version = 6;
		h.ip.payload_len = bpf_htons(n);
		h.ip.nexthdr = IPPROTO_ICMPV6;
		h.ip.hop_limit = 64;
		memcpy(h.ip.saddr.s6_addr32, f->daddr.w, 16);
		memcpy(h.ip.daddr.s6_addr32, f->saddr.w, 16);
		if (what == icmp_too_big) {
			h.icmp.icmp6_type = 2;
			h.icmp.icmp6_dataun.un_data32[0] = bpf_htonl(arg);
		} else {
			h.icmp.icmp6_type = 1;
			h.icmp.icmp6_code = 4;
		}
		for (i = 0; i < 4; i++)
			sum += (__u64)f->saddr.w[i] + f->daddr.w[i];
		sum += (__u64)bpf_htonl(n) + bpf_htonl(IPPROTO_ICMPV6) + bpf_htons(h.icmp.icmp6_type << 8 | h.icmp.icmp6_code) +
		       h.icmp.icmp6_dataun.un_data32[0];
		h.icmp.icmp6_cksum = ~csum_fold(sum);
		if (ctx_grow_l3(ctx, sizeof(h.ip) + sizeof(h.icmp)) || ctx_write_head(ctx, &h, sizeof(h)))
			return drop_write;
	}
	return 0;
}

#ifdef CTX_XDP
/* icmp_echo_reply turns an echo request into its reply. Returns 0 or a drop reason. */
static __noinline int icmp_echo_reply(ctx_t *ctx, struct flow *f)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct tuple t = { .saddr = f->daddr, .daddr = f->saddr };
	struct ethhdr *eth = data;
	struct icmphdr *icmp = data + (f->l4_off & OFF_MASK);
	__u8 from = f->icmp_type, to = from == 8 ? 0 : 129, mac[6];

	if ((void *)(eth + 1) > data_end || (void *)(icmp + 1) > data_end)
		return drop_malformed;
	memcpy(mac, eth->h_dest, 6);
	memcpy(eth->h_dest, eth->h_source, 6);
	memcpy(eth->h_source, mac, 6);
	icmp->type = to;
	icmp->checksum = csum_apply(icmp->checksum, (__u64)(__u16)~bpf_htons(from << 8) + bpf_htons(to << 8));
	/* Both addresses change places, so no sum over them changes. */
	if (f->family == AF_INET) {
		struct iphdr *ip = data + (f->l3_off & OFF_MASK);

		if ((void *)(ip + 1) > data_end)
			return drop_malformed;
		ip->saddr = t.saddr.w[3];
		ip->daddr = t.daddr.w[3];
	} else {
		struct ipv6hdr *ip = data + (f->l3_off & OFF_MASK);

		if ((void *)(ip + 1) > data_end)
			return drop_malformed;
		memcpy(ip->saddr.s6_addr32, t.saddr.w, 16);
		memcpy(ip->daddr.s6_addr32, t.daddr.w, 16);
	}
	f->saddr = t.saddr;
	f->daddr = t.daddr;
	return 0;
}
#else
static __noinline int icmp_echo_reply(ctx_t *ctx, struct flow *f)
{
	struct tuple t = { .saddr = f->daddr, .daddr = f->saddr };
	__u8 from = f->icmp_type, to = from == 8 ? 0 : 129, mac[12], swapped[12];

	if (bpf_skb_load_bytes(ctx, 0, mac, sizeof(mac)))
		return drop_malformed;
	memcpy(swapped, mac + 6, 6);
	memcpy(swapped + 6, mac, 6);
	if (bpf_skb_store_bytes(ctx, 0, swapped, sizeof(swapped), 0) ||
	    bpf_l4_csum_replace(ctx, f->l4_off + offsetof(struct icmphdr, checksum), bpf_htons(from << 8), bpf_htons(to << 8), 2) ||
	    bpf_skb_store_bytes(ctx, f->l4_off, &to, 1, 0))
		return drop_write;
	if (f->family == AF_INET) {
		__be32 a[2] = { t.saddr.w[3], t.daddr.w[3] };

		if (bpf_skb_store_bytes(ctx, f->l3_off + offsetof(struct iphdr, saddr), a, sizeof(a), 0))
			return drop_write;
	} else if (bpf_skb_store_bytes(ctx, f->l3_off + offsetof(struct ipv6hdr, saddr), &t, 32, 0)) {
		return drop_write;
	}
	f->saddr = t.saddr;
	f->daddr = t.daddr;
	return 0;
}
#endif

/* icmp_error_find looks for the connection whose packet an ICMP error quotes. If there is one, it fills in (the quoted tuple, as parsed) and e.
 * Errors travel against the quoted packet: the entry of their own direction is keyed by the reversed quotation. */
inline_fn struct ct *icmp_error_find(ctx_t *ctx, struct flow *f, struct flow *in)
{
	__u32 head = f->l4_off + sizeof(struct icmphdr);
	void *data, *data_end;
	struct ct_key k = {};
	__be16 *ports;
	int r;

#ifndef CTX_XDP
	if (head > 0x700 || bpf_skb_pull_data(ctx, ctx->len < head + 96 ? ctx->len : head + 96))
		return NULL;
#endif
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	head &= OFF_MASK;
	if (f->family == AF_INET)
		r = parse_v4(data, data_end, head, in);
	else
		r = parse_v6(data, data_end, head, in);
	if (r != parse_ok || in->frag == FLOW_FRAG_LATER || (in->proto != IPPROTO_TCP && in->proto != IPPROTO_UDP && in->proto != IPPROTO_SCTP))
		return NULL;
	ports = data + (in->l4_off & OFF_MASK);
	if ((void *)(ports + 4) > data_end) /* RFC 792: at least 64 bits of the transport header are quoted */
		return NULL;
	in->sport = ports[0];
	in->dport = ports[1];
	k.saddr = in->daddr;
	k.daddr = in->saddr;
	k.sport = in->dport;
	k.dport = in->sport;
	k.proto = in->proto;
	return ct_get(&k);
}

/* icmp_error_translate carries an ICMP error about a translated packet to whom it concerns: what the packet meant before translation stands in the quotation
 * again. Returns 0 if the error is about no connection of ours, 1 if translated, or a negative drop reason. */
static __noinline int icmp_error_translate(ctx_t *ctx, struct flow *f)
{
	struct flow in = {};
	struct ct *e = icmp_error_find(ctx, f, &in);
	struct tuple quoted, outer;
	__u64 idiff, pdiff, odiff;
	int is4 = f->family == AF_INET;

	if (!e)
		return 0;
	quoted.saddr = e->daddr;
	quoted.daddr = e->saddr;
	quoted.sport = e->dport;
	quoted.dport = e->sport;
	outer.saddr = addr_eq(&f->saddr, &in.daddr) ? e->saddr : f->saddr;
	outer.daddr = e->daddr;
	idiff = addr_diff(&in.saddr, &quoted.saddr, is4) + addr_diff(&in.daddr, &quoted.daddr, is4);
	pdiff = port_diff(in.sport, quoted.sport) + port_diff(in.dport, quoted.dport);
	odiff = addr_diff(&f->saddr, &outer.saddr, is4) + addr_diff(&f->daddr, &outer.daddr, is4);
#ifdef CTX_XDP
	{
		void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
		struct icmphdr *icmp = data + (f->l4_off & OFF_MASK);
		__be16 *ports = data + (in.l4_off & OFF_MASK);

		if ((void *)(icmp + 1) > data_end || (void *)(ports + 2) > data_end)
			return -drop_malformed;
		ports[0] = quoted.sport;
		ports[1] = quoted.dport;
		if (is4) {
			struct iphdr *ip = data + (f->l3_off & OFF_MASK), *q = data + (in.l3_off & OFF_MASK);

			if ((void *)(ip + 1) > data_end || (void *)(q + 1) > data_end)
				return -drop_malformed;
			q->saddr = quoted.saddr.w[3];
			q->daddr = quoted.daddr.w[3];
			q->check = csum_apply(q->check, idiff);
			ip->saddr = outer.saddr.w[3];
			ip->daddr = outer.daddr.w[3];
			ip->check = csum_apply(ip->check, odiff);
			/* The quoted header's checksum balances its addresses, so only the ports count. */
			icmp->checksum = csum_apply(icmp->checksum, pdiff);
		} else {
			struct ipv6hdr *ip = data + (f->l3_off & OFF_MASK), *q = data + (in.l3_off & OFF_MASK);

			if ((void *)(ip + 1) > data_end || (void *)(q + 1) > data_end)
				return -drop_malformed;
			memcpy(q->saddr.s6_addr32, quoted.saddr.w, 16);
			memcpy(q->daddr.s6_addr32, quoted.daddr.w, 16);
			memcpy(ip->saddr.s6_addr32, outer.saddr.w, 16);
			memcpy(ip->daddr.s6_addr32, outer.daddr.w, 16);
			icmp->checksum = csum_apply(icmp->checksum, (__u64)csum_fold32(pdiff) + csum_fold32(idiff) + csum_fold32(odiff));
		}
	}
#else
	{
		__u32 check = f->l4_off + offsetof(struct icmphdr, checksum);
		__be16 p[2] = { quoted.sport, quoted.dport };

		if (bpf_l4_csum_replace(ctx, check, 0, csum_fold32(pdiff), 0) || bpf_skb_store_bytes(ctx, in.l4_off, p, sizeof(p), 0))
			return -drop_write;
		if (is4) {
			__be32 q[2] = { quoted.saddr.w[3], quoted.daddr.w[3] }, o[2] = { outer.saddr.w[3], outer.daddr.w[3] };

			if (bpf_l3_csum_replace(ctx, in.l3_off + offsetof(struct iphdr, check), 0, csum_fold32(idiff), 0) ||
			    bpf_skb_store_bytes(ctx, in.l3_off + offsetof(struct iphdr, saddr), q, sizeof(q), 0) ||
			    bpf_l3_csum_replace(ctx, f->l3_off + offsetof(struct iphdr, check), 0, csum_fold32(odiff), 0) ||
			    bpf_skb_store_bytes(ctx, f->l3_off + offsetof(struct iphdr, saddr), o, sizeof(o), 0))
				return -drop_write;
		} else if (bpf_l4_csum_replace(ctx, check, 0, csum_fold32(idiff), 0) ||
			   bpf_skb_store_bytes(ctx, in.l3_off + offsetof(struct ipv6hdr, saddr), &quoted, 32, 0) ||
			   bpf_l4_csum_replace(ctx, check, 0, csum_fold32(odiff), BPF_F_PSEUDO_HDR | cfg_l4_csum_ipv6) ||
			   bpf_skb_store_bytes(ctx, f->l3_off + offsetof(struct ipv6hdr, saddr), &outer, 32, 0)) {
			return -drop_write;
		}
	}
#endif
	f->saddr = outer.saddr;
	f->daddr = outer.daddr;
	return 1;
}
