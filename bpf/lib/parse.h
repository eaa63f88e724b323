/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Header parsing for XDP and tc programs alike: from an Ethernet (or bare L3) frame to one struct flow.
 *
 * The parser only reads. It copes with 802.1Q/802.1ad tags, IPv4 options, IPv6 extension headers (up to PARSE_MAX_EXT),
 * fragments of both families, and ICMP messages (whose quoted packet is left to parse_inner).
 * Offsets are relative to the start of the packet, so they stay valid when data pointers are reloaded. */
#pragma once

#include "addr.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>

#define PARSE_MAX_VLAN 2
#define PARSE_MAX_EXT 6
#define PARSE_IP_MF 0x2000
#define PARSE_IP_OFFSET 0x1fff
#define PARSE_IP_DF 0x4000

#ifndef IPPROTO_SCTP
#define IPPROTO_SCTP 132
#endif

/* What parse_* made of a packet. */
enum parse_result {
	parse_ok = 0, /* flow is filled, ports included (or a later fragment: see flow.frag) */
	parse_not_ip, /* ARP and the rest: not ours */
	parse_bad, /* truncated or contradictory */
};

#define FLOW_FRAG_FIRST 1 /* first fragment: has ports */
#define FLOW_FRAG_LATER 2 /* later fragment: has none, sport and dport are 0 */

struct flow {
	struct addr saddr;
	struct addr daddr;
	__be16 sport; /* ICMP echo: identifier; else 0 for protocols without ports */
	__be16 dport; /* ICMP echo: 0 */
	__u8 proto; /* IPPROTO_* of the transport header */
	__u8 family; /* AF_INET or AF_INET6 */
	__u8 frag; /* FLOW_FRAG_* */
	__u8 ttl;
	__u8 tcp_flags; /* byte 13 of the TCP header */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 tos;
	__u16 l3_off; /* of the IP header */
	__u16 l4_off; /* of the transport header */
	__u16 l3_len; /* total length by the IP header, header included, host order */
	__u16 pad;
	__u32 frag_id; /* of the fragmented datagram, network byte order */
};
_Static_assert(sizeof(struct flow) == 56, "flow has no hidden padding");

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* parse_ports reads the transport header at f->l4_off into f. */
inline_fn int parse_ports(void *data, void *data_end, struct flow *f)
{
	__u8 *l4 = data + f->l4_off;

	f->sport = 0;
	f->dport = 0;
	f->tcp_flags = 0;
	switch (f->proto) {
	case IPPROTO_TCP:
		if ((void *)l4 + sizeof(struct tcphdr) > data_end)
			return parse_bad;
		f->sport = ((struct tcphdr *)l4)->source;
		f->dport = ((struct tcphdr *)l4)->dest;
		f->tcp_flags = l4[13];
		return parse_ok;
	case IPPROTO_UDP:
		if ((void *)l4 + sizeof(struct udphdr) > data_end)
			return parse_bad;
		f->sport = ((struct udphdr *)l4)->source;
		f->dport = ((struct udphdr *)l4)->dest;
		return parse_ok;
	case IPPROTO_SCTP:
		if ((void *)l4 + 12 > data_end)
			return parse_bad;
		f->sport = *(__be16 *)l4;
		f->dport = *(__be16 *)(l4 + 2);
		return parse_ok;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((void *)l4 + sizeof(struct icmphdr) > data_end)
			return parse_bad;
		f->icmp_type = l4[0];
		f->icmp_code = l4[1];
		if ((f->proto == IPPROTO_ICMP && (f->icmp_type == 8 || f->icmp_type == 0)) ||
		    (f->proto == IPPROTO_ICMPV6 && (f->icmp_type == 128 || f->icmp_type == 129)))
			f->sport = *(__be16 *)(l4 + 4);
		return parse_ok;
	}
	return parse_ok;
}

/* parse_v4 parses the IPv4 header at off; ports are left to parse_ports. */
inline_fn int parse_v4(void *data, void *data_end, __u16 off, struct flow *f)
{
	struct iphdr *ip = data + off;
	__u32 hlen;

	if ((void *)(ip + 1) > data_end)
		return parse_bad;
	hlen = ip->ihl * 4;
	if (ip->version != 4 || hlen < sizeof(*ip))
		return parse_bad;
	f->family = AF_INET;
	f->l3_off = off;
	f->l4_off = off + hlen;
	f->l3_len = bpf_ntohs(ip->tot_len);
	if (f->l3_len < hlen)
		return parse_bad;
	f->proto = ip->protocol;
	f->ttl = ip->ttl;
	f->tos = ip->tos;
	f->frag_id = ip->id;
	f->pad = 0;
	addr_set4(&f->saddr, ip->saddr);
	addr_set4(&f->daddr, ip->daddr);
	f->frag = 0;
	if (unlikely(ip->frag_off & bpf_htons(PARSE_IP_MF | PARSE_IP_OFFSET)))
		f->frag = ip->frag_off & bpf_htons(PARSE_IP_OFFSET) ? FLOW_FRAG_LATER : FLOW_FRAG_FIRST;
	f->icmp_type = 0;
	f->icmp_code = 0;
	return parse_ok;
}

struct parse_ext {
	__u8 next;
	__u8 len; /* in 8 octets, not counting the first; fragment header: reserved */
	__be16 frag_off;
	__be32 frag_id;
};

/* parse_v6 parses the IPv6 header at off and walks its extension headers. */
inline_fn int parse_v6(void *data, void *data_end, __u16 off, struct flow *f)
{
	struct ipv6hdr *ip = data + off;
	__u32 l4 = off + sizeof(*ip);
	__u8 next;
	int i;

	if ((void *)(ip + 1) > data_end || ip->version != 6)
		return parse_bad;
	f->family = AF_INET6;
	f->l3_off = off;
	f->l3_len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	f->ttl = ip->hop_limit;
	f->tos = (ip->priority << 4) | (ip->flow_lbl[0] >> 4);
	f->frag = 0;
	f->frag_id = 0;
	f->pad = 0;
	f->icmp_type = 0;
	f->icmp_code = 0;
	addr_set6(&f->saddr, ip->saddr.s6_addr32);
	addr_set6(&f->daddr, ip->daddr.s6_addr32);
	next = ip->nexthdr;
	for (i = 0; i < PARSE_MAX_EXT; i++) {
		struct parse_ext *ext = data + (l4 & 0x7ff);

		if (likely(next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_ICMPV6))
			break;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if ((void *)(ext + 1) > data_end)
			return parse_bad;
		if (next == IPPROTO_FRAGMENT) {
			f->frag_id = ext->frag_id;
			if (ext->frag_off & bpf_htons(0xfff8))
				f->frag = FLOW_FRAG_LATER;
			else if (ext->frag_off & bpf_htons(1))
				f->frag = FLOW_FRAG_FIRST;
			l4 += 8;
		} else {
			l4 += (ext->len + 1) * 8;
		}
		next = ext->next;
		if (f->frag == FLOW_FRAG_LATER)
			break;
		if (l4 > 0x7ff - sizeof(struct tcphdr))
			return parse_bad;
	}
	f->proto = next;
	f->l4_off = l4 & 0x7ff;
	return parse_ok;
}

/* parse_l3 parses from the IP header at off; family by the version nibble's protocol number eth_proto (network order). */
inline_fn int parse_l3(void *data, void *data_end, __u16 off, __be16 eth_proto, struct flow *f)
{
	int r;

	if (eth_proto == bpf_htons(ETH_P_IP))
		r = parse_v4(data, data_end, off, f);
	else if (eth_proto == bpf_htons(ETH_P_IPV6))
		r = parse_v6(data, data_end, off, f);
	else
		return parse_not_ip;
	if (r != parse_ok)
		return r;
	if (f->frag == FLOW_FRAG_LATER) {
		f->sport = 0;
		f->dport = 0;
		f->tcp_flags = 0;
		return parse_ok;
	}
	return parse_ports(data, data_end, f);
}

/* parse_eth parses an Ethernet frame, skipping up to PARSE_MAX_VLAN tags. */
inline_fn int parse_eth(void *data, void *data_end, struct flow *f)
{
	struct ethhdr *eth = data;
	__u16 off = sizeof(*eth);
	__be16 proto;
	int i;

	if ((void *)(eth + 1) > data_end)
		return parse_bad;
	proto = eth->h_proto;
	for (i = 0; i < PARSE_MAX_VLAN; i++) {
		if (likely(proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD)))
			break;
		if (data + off + 4 > data_end)
			return parse_bad;
		proto = *(__be16 *)(data + off + 2);
		off += 4;
	}
	return parse_l3(data, data_end, off, proto, f);
}
