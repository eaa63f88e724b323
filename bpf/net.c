/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The node's edges: its uplinks and its overlay device.
 *
 *   from_net     (uplink, tcx ingress):  after uplink.c's services: answers to masqueraded flows, to pods' service clients -> local pod | kernel
 *   to_net       (uplink, tcx egress):   a pod's packet that leaves the cluster -> masquerade
 *   from_overlay (VXLAN, tcx ingress):   check the tunnel's other end -> local pod | kernel
 *   to_overlay   (VXLAN, tcx egress):    choose the tunnel's other end
 */
#include "lib/endpoint.h"
#include "lib/ipcache.h"
#include "lib/masq.h"

/* deliver hands a packet from elsewhere to a pod of this node. An answer from a remote backend gets its service's address back first. */
inline_fn int deliver(struct __sk_buff *skb, struct flow *f, const struct endpoint *ep)
{
	int r = lb_reverse(skb, f);

	if (unlikely(r < 0))
		return drop_skb(skb, -r);
	return endpoint_deliver(skb, f, ep, 0);
}

/* outside says whether an address is reached under the node's address. */
inline_fn int outside(const struct addr *a)
{
	struct ipcache_entry *e = ipcache_lookup(a);

	return !e || !(e->flags & IPCACHE_CLUSTER);
}

inline_fn int is_multicast(const struct flow *f)
{
	if (f->family == AF_INET)
		return (f->daddr.w[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || f->daddr.w[3] == 0xffffffff;
	return f->daddr.b[0] == 0xff;
}

SEC("tcx/ingress")
int from_net(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *dst;
	struct uplink *up;
	struct flow f = {};
	int r = 0;

	if (parse_skb(skb, &f) != parse_ok)
		return TCX_NEXT; /* the kernel refuses what is malformed and knows what is not IP */
	up = bpf_map_lookup_elem(&uplinks, &ifindex);
	if (up && (addr_eq(&f.daddr, &up->addr4) || addr_eq(&f.daddr, &up->addr6))) {
		if (frag_resolve(&f) == 0) {
			if (unlikely(flow_is_icmp_error(&f)))
				r = masq_error(skb, &f, MASQ_IN);
			else
				r = masq_in(skb, &f);
		}
		if (r < 0)
			return drop_skb(skb, -r);
		if (!r)
			return TCX_NEXT; /* the node's own */
	}
	dst = endpoint_lookup(&f.daddr);
	if (!dst)
		return TCX_NEXT;
	if (unlikely(endpoint_lookup(&f.saddr)))
		return drop_skb(skb, drop_spoofed); /* this node's pods are not out there */
	if (!r && frag_resolve(&f) == 0 && outside(&f.saddr)) {
		struct masq_key k;

		masq_key_in(&k, &f);
		inbound_note(&k);
	}
	return deliver(skb, &f, dst);
}

SEC("tcx/egress")
int to_net(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct masq_key k;
	struct uplink *up;
	struct flow f = {};
	int r;

	if (parse_skb(skb, &f) != parse_ok)
		return TCX_NEXT;
	if (!endpoint_lookup(&f.saddr) || is_multicast(&f) || !outside(&f.daddr))
		return TCX_NEXT;
	up = bpf_map_lookup_elem(&uplinks, &ifindex);
	if (!up || addr_is_zero(f.family == AF_INET ? &up->addr4 : &up->addr6))
		return TCX_NEXT;
	if (frag_resolve(&f))
		return drop_skb(skb, drop_fragment);
	if (unlikely(flow_is_icmp_error(&f))) {
		r = masq_error(skb, &f, MASQ_OUT);
		return r < 0 ? drop_skb(skb, -r) : TCX_NEXT;
	}
	masq_key_out(&k, &f);
	k.dir = MASQ_IN; /* inbound is keyed as the first packet came */
	if (inbound_get(&k))
		return TCX_NEXT;
	r = masq_out(skb, &f, up);
	return r ? drop_skb(skb, r) : TCX_NEXT;
}

SEC("tcx/ingress")
int from_overlay(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct ipcache_entry *from;
	struct endpoint *dst;
	struct addr remote;
	struct flow f = {};

	if (parse_skb(skb, &f) != parse_ok)
		return drop_skb(skb, drop_malformed);
	/* Anyone can send UDP to the tunnel's port: the other end must be the node that the inner source belongs to. */
	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		addr_set4(&remote, bpf_htonl(key.remote_ipv4));
	} else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		addr_set6(&remote, key.remote_ipv6);
	} else {
		return drop_skb(skb, drop_tunnel);
	}
	from = ipcache_lookup(&f.saddr);
	if (key.tunnel_id != cfg_vni || !from || !addr_eq(&from->node, &remote))
		return drop_skb(skb, drop_tunnel);
	dst = endpoint_lookup(&f.daddr);
	if (dst)
		return deliver(skb, &f, dst);
	bpf_skb_change_type(skb, 0); /* PACKET_HOST: the sender knows no MAC of ours */
	return TCX_NEXT;
}

SEC("tcx/egress")
int to_overlay(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct ipcache_entry *to;
	struct flow f = {};
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (parse_skb(skb, &f) != parse_ok)
		return drop_skb(skb, drop_tunnel); /* there is no neighbour to discover and nobody to broadcast to */
	to = ipcache_lookup(&f.daddr);
	if (!to || !(to->flags & IPCACHE_TUNNEL))
		return drop_skb(skb, drop_tunnel);
	key.tunnel_id = cfg_vni;
	key.tunnel_ttl = 64;
	key.tunnel_tos = f.tos;
	if (addr_is4(&to->node)) {
		key.remote_ipv4 = bpf_ntohl(to->node.w[3]);
	} else {
		memcpy(key.remote_ipv6, to->node.w, 16);
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return drop_skb(skb, drop_tunnel);
	return TCX_NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
