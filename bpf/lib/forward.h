/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The fast way out: the kernel's routing table decides, the packet skips the kernel's forwarding path.
 * Whatever is not a plain next hop goes the kernel's way instead: local delivery, unreachable and blackhole routes, a path MTU that is too small, a
 * hop limit that runs out. So ICMP errors and path MTU discovery are the kernel's own. */
#pragma once

#include "skb.h"
#include "drop.h"
#include "node.h"

inline_fn int forward(struct __sk_buff *skb, const struct flow *f)
{
	struct bpf_redir_neigh nh = {};
	struct bpf_fib_lookup fib = {};
	long r;

	if (unlikely(f->ttl <= 1))
		return TCX_NEXT;
	fib.ifindex = skb->ifindex;
	fib.l4_protocol = f->proto;
	fib.tot_len = skb_segment_len(skb, f);
	if (f->family == AF_INET) {
		fib.family = AF_INET;
		fib.tos = f->tos;
		fib.ipv4_src = f->saddr.w[3];
		fib.ipv4_dst = f->daddr.w[3];
	} else {
		fib.family = AF_INET6;
		memcpy(fib.ipv6_src, f->saddr.w, 16);
		memcpy(fib.ipv6_dst, f->daddr.w, 16);
	}
	r = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_SKIP_NEIGH);
	if (r != BPF_FIB_LKUP_RET_SUCCESS)
		return TCX_NEXT;
	if (fib.ifindex == skb->ifindex)
		return TCX_NEXT; /* back to where it came from: the kernel knows about redirects and loops */
	if (skb_dec_ttl(skb, f))
		return drop_skb(skb, drop_write);
	drop_count(drop_none, skb->len);
	if (fib.ifindex == cfg_vxlan_ifindex)
		return bpf_redirect(fib.ifindex, 0); /* its egress program sets the tunnel's end */
	nh.nh_family = fib.family;
	if (fib.family == AF_INET)
		nh.ipv4_nh = fib.ipv4_dst;
	else
		memcpy(nh.ipv6_nh, fib.ipv6_dst, 16);
	return bpf_redirect_neigh(fib.ifindex, &nh, sizeof(nh), 0);
}
