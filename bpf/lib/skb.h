/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Parsing and small edits of packets in tc programs, where headers need not be linear. */
#pragma once

/* linux/icmp.h takes no more than this from linux/if.h, which would pull in the C library. */
#ifndef _LINUX_IF_H
#define _LINUX_IF_H
#define IFNAMSIZ 16
#endif
#include "parse.h"
#include <stddef.h>

#ifndef BPF_FIB_LOOKUP_SKIP_NEIGH
#define BPF_FIB_LOOKUP_SKIP_NEIGH (1U << 2)
#endif

#define SKB_HEADERS 0x7ff /* bytes that hold every header: as far as struct flow's offsets go */

/* parse_skb parses the packet into f, making its headers linear where they are not. Returns enum parse_result.
 * Payload is left where it is: TCP keeps it in pages of its own, and pulling even a byte of it into the headers' buffer makes the kernel copy that buffer. */
__noinline int parse_skb(struct __sk_buff *skb, struct flow *f)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	int r;

	if (!f)
		return parse_bad;
	r = parse_eth(data, data_end, f);
	if (likely(r != parse_bad) || data + skb->len <= data_end)
		return r;
	if (bpf_skb_pull_data(skb, skb->len < SKB_HEADERS ? skb->len : SKB_HEADERS))
		return parse_bad;
	return parse_eth((void *)(long)skb->data, (void *)(long)skb->data_end, f);
}

/* skb_segment_len returns the L3 length of the largest packet that skb becomes on a wire: that of one segment for a GSO packet. */
inline_fn __u32 skb_segment_len(struct __sk_buff *skb, const struct flow *f)
{
	__u32 l4 = 8;
	__u8 doff;

	if (!skb->gso_size)
		return skb->len - f->l3_off;
	if (f->proto == IPPROTO_TCP) { /* exactly: a byte too many would send every full segment the slow way */
		if (bpf_skb_load_bytes(skb, f->l4_off + 12, &doff, 1))
			return skb->len - f->l3_off;
		l4 = (doff >> 4) * 4;
	}
	return f->l4_off - f->l3_off + l4 + skb->gso_size;
}

/* skb_dec_ttl takes one hop from the packet. The caller has made sure that ttl is above 1. Returns 0 or a negative error. */
inline_fn int skb_dec_ttl(struct __sk_buff *skb, const struct flow *f)
{
	__u8 ttl = f->ttl - 1;

	if (f->family == AF_INET) {
		void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
		struct iphdr *ip = data + (f->l3_off & 0x7ff);
		__u32 check;

		if ((void *)(ip + 1) > data_end)
			return -1;
		ip->ttl = ttl;
		check = (__u32)ip->check + bpf_htons(0x0100); /* RFC 1141: the word lost 0x0100, so its complement gains it */
		ip->check = check + (check >= 0xffff);
		return 0;
	}
	/* By the helper: a device may have summed the packet, header included. */
	return bpf_skb_store_bytes(skb, f->l3_off + offsetof(struct ipv6hdr, hop_limit), &ttl, 1, BPF_F_RECOMPUTE_CSUM);
}

/* skb_set_macs writes the Ethernet addresses. Returns 0 or a negative error. */
inline_fn int skb_set_macs(struct __sk_buff *skb, const __u8 *dst, const __u8 *src)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > data_end)
		return -1;
	memcpy(eth->h_dest, dst, 6);
	memcpy(eth->h_source, src, 6);
	return 0;
}
