/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Refusing a TCP connection by RST. An ICMP error would do by the letter, but Linux drops one that arrives while connect() still holds the socket, as it does on
 * veth, and the client would wait a second for its retransmission. */
#pragma once

#include "icmp.h"

struct reset4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct reset6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

/* tcp_reset turns a TCP segment into the RST that a closed port answers (RFC 9293 3.10.7.1). Returns 0 or a drop reason. */
static __noinline int tcp_reset(ctx_t *ctx, struct flow *f)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct tcphdr *in = data + (f->l4_off & OFF_MASK), tcp = {};
	struct ethhdr eth, *old = data;
	__u32 len;
	__u64 sum = 0;
	__be32 *w = (__be32 *)&tcp;
	int i;

	if (f->l3_off != sizeof(eth) || (void *)(old + 1) > data_end || old->h_dest[0] & 1 || (void *)(in + 1) > data_end)
		return drop_no_service;
	if (in->rst || !icmp_allowed())
		return drop_no_service; /* a reset is never answered */
	memcpy(eth.h_dest, old->h_source, 6);
	memcpy(eth.h_source, old->h_dest, 6);
	eth.h_proto = old->h_proto;
	tcp.source = f->dport;
	tcp.dest = f->sport;
	tcp.doff = 5;
	tcp.rst = 1;
	if (in->ack) {
		tcp.seq = in->ack_seq;
	} else {
		len = f->l3_len - (f->l4_off - f->l3_off) - in->doff * 4;
		tcp.ack = 1;
		tcp.ack_seq = bpf_htonl(bpf_ntohl(in->seq) + len + in->syn + in->fin);
	}
	for (i = 0; i < 4; i++)
		sum += (__u64)f->saddr.w[i] + f->daddr.w[i];
	if (f->family == AF_INET) /* both addresses carry the IPv4-mapped prefix, which is no part of the sum */
		sum -= 2 * (__u64)ADDR_V4_PREFIX;
	for (i = 0; i < sizeof(tcp) / 4; i++)
		sum += w[i];
	sum += (__u64)bpf_htonl(sizeof(tcp)) + bpf_htonl(IPPROTO_TCP);
	tcp.check = ~csum_fold(sum);
	if (f->family == AF_INET) {
		struct reset4 h = { .eth = eth, .tcp = tcp };

		h.ip.version = 4;
		h.ip.ihl = 5;
		h.ip.tot_len = bpf_htons(sizeof(h.ip) + sizeof(h.tcp));
		h.ip.ttl = 64;
		h.ip.protocol = IPPROTO_TCP;
		h.ip.saddr = f->daddr.w[3];
		h.ip.daddr = f->saddr.w[3];
		h.ip.check = ~csum_fold((__u64)bpf_htons(0x4500) + h.ip.tot_len + bpf_htons(64 << 8 | IPPROTO_TCP) + h.ip.saddr + h.ip.daddr);
		if (ctx_cut(ctx, sizeof(h)) || ctx_write_head(ctx, &h, sizeof(h)))
			return drop_write;
	} else {
		struct reset6 h = { .eth = eth, .tcp = tcp };

		h.ip.version = 6;
		h.ip.payload_len = bpf_htons(sizeof(h.tcp));
		h.ip.nexthdr = IPPROTO_TCP;
		h.ip.hop_limit = 64;
		memcpy(h.ip.saddr.s6_addr32, f->daddr.w, 16);
		memcpy(h.ip.daddr.s6_addr32, f->saddr.w, 16);
		if (ctx_cut(ctx, sizeof(h)) || ctx_write_head(ctx, &h, sizeof(h)))
			return drop_write;
	}
	return 0;
}
