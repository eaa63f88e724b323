/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The node's own pods: address -> device, MAC, identity; and the delivery of a packet to one of them. */
#pragma once

#include "addr.h"
#include "drop.h"
#include "skb.h"
#include "bandwidth.h"

#define EP_CHAINED 1 /* the interface belongs to another CNI plugin: watched, never redirected into or out of */
#define EP_LIMIT_IN 2 /* has a bandwidth limit towards the pod */
#define EP_LIMIT_OUT 4 /* has a bandwidth limit from the pod */
#define EP_NETKIT 8 /* its interface is a netkit pair: from_pod runs where the pod sends, to_pod where the host side does */

/* endpoint is one pod; a dual-stack pod has an entry for each address. */
struct endpoint {
	__u32 ifindex; /* the host side of the pod's pair */
	__u32 identity; /* of its labels, for policy; 0: not known */
	__u32 flags; /* EP_* */
	__u8 mac[6]; /* inside the pod */
	__u8 host_mac[6]; /* the host side's */
};
_Static_assert(sizeof(struct endpoint) == 24, "endpoint is 24 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct endpoint);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} endpoints SEC(".maps");

inline_fn struct endpoint *endpoint_lookup(const struct addr *a)
{
	return bpf_map_lookup_elem(&endpoints, a);
}

/* endpoint_deliver hands the packet to the pod ep of this node, as one hop. Only in from_pod and in tcx ingress programs: bpf_redirect_peer works only there.
 * Where the kernel has to answer (hop limit) or the pod is another plugin's, the packet goes the kernel's way.
 * from are the EP_* flags of the pod that sends, 0 if it is none of this node's.
 * Ingress policy belongs at the top of this function. */
inline_fn int endpoint_deliver(struct __sk_buff *skb, const struct flow *f, const struct endpoint *ep, __u32 from)
{
	if (unlikely(ep->flags & EP_CHAINED) || unlikely(f->ttl <= 1))
		return TCX_NEXT;
	if (from & EP_NETKIT) { /* the sender's transmit path, where bpf_redirect_peer is refused: out of the receiver's host side, where to_pod runs and limits */
		if (skb_dec_ttl(skb, f) || skb_set_macs(skb, ep->mac, ep->host_mac))
			return drop_skb(skb, drop_write);
		drop_count(drop_none, skb->len);
		return bpf_redirect(ep->ifindex, 0);
	}
	if (unlikely(ep->flags & EP_LIMIT_IN) && !bandwidth_admit(skb, ep->ifindex, BANDWIDTH_IN))
		return drop_skb(skb, drop_bandwidth);
	if (skb_dec_ttl(skb, f) || skb_set_macs(skb, ep->mac, ep->host_mac))
		return drop_skb(skb, drop_write);
	drop_count(drop_none, skb->len);
	return bpf_redirect_peer(ep->ifindex, 0);
}
