/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The host side of a pod's pair. On netkit from_pod runs where the pod transmits and to_pod where the host side does; skb->ifindex is
 * the receiving end's there, so to_pod takes the host side's from the endpoint.
 *
 *   from_pod (tcx ingress): source check -> limit -> services (an answer gets its service's address, a request its backend) -> egress policy's place
 *                           -> local pod | next hop | kernel
 *   to_pod   (tcx egress):  what the kernel delivers: ingress policy's place -> limit -> services (answers)
 */
#include "lib/endpoint.h"
#include "lib/forward.h"
#include "lib/ipcache.h"
#include "lib/lb.h"

#define LINK_LOCAL_4 bpf_htonl(0xa9fe0000) /* 169.254.0.0/16 */

/* from_nobody says whether a source that is no pod's address is one that a host may use on its own link: IPv6 link-local and unspecified
 * addresses towards link-local ones (neighbour discovery, multicast listener reports). The kernel never forwards those. */
inline_fn int from_nobody(const struct flow *f)
{
	if (f->family != AF_INET6)
		return 0;
	if (!addr_is_zero(&f->saddr) && (f->saddr.w[0] & bpf_htonl(0xffc00000)) != bpf_htonl(0xfe800000))
		return 0;
	return (f->daddr.w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) || (f->daddr.w[0] & bpf_htonl(0xff0f0000)) == bpf_htonl(0xff020000);
}

/* may_fragment says whether the sender lets routers cut the packet: then the tunnel's own packet is cut, and put together at its other end. */
inline_fn int may_fragment(struct __sk_buff *skb, const struct flow *f)
{
	__be16 frag_off;

	if (f->family != AF_INET || bpf_skb_load_bytes(skb, f->l3_off + offsetof(struct iphdr, frag_off), &frag_off, 2))
		return 0;
	return !(frag_off & bpf_htons(PARSE_IP_DF));
}

/* enter_tunnel sends the packet into the overlay. For pods of other nodes the routing table says the same; the nodes themselves have no route there, since the tunnel's own
 * packets go to them, so the kernel could not tell the sender that a packet is too big. */
inline_fn int enter_tunnel(struct __sk_buff *skb, struct flow *f, const struct ipcache_entry *to)
{
	if (unlikely(f->ttl <= 1))
		return TCX_NEXT;
	if (unlikely(to->mtu && skb_segment_len(skb, f) > to->mtu && !may_fragment(skb, f))) {
		if (!icmp_send(skb, f, icmp_too_big, to->mtu))
			return bpf_redirect(skb->ifindex, 0);
		return drop_skb(skb, drop_too_big);
	}
	if (skb_dec_ttl(skb, f))
		return drop_skb(skb, drop_write);
	drop_count(drop_none, skb->len);
	return bpf_redirect(cfg_vxlan_ifindex, 0); /* its egress program sets the tunnel's end */
}

inline_fn int pod_out(struct __sk_buff *skb)
{
	struct endpoint *self, *dst;
	struct flow f = {};
	int r;

	switch (parse_skb(skb, &f)) {
	case parse_ok:
		break;
	case parse_not_ip:
		return TCX_NEXT;
	default:
		return drop_skb(skb, drop_malformed);
	}
	self = endpoint_lookup(&f.saddr);
	if (unlikely(!self || self->ifindex != skb->ifindex)) {
		if (from_nobody(&f))
			return TCX_NEXT;
		return drop_skb(skb, drop_spoofed);
	}
	if (unlikely(self->flags & EP_LIMIT_OUT) && !bandwidth_admit(skb, self->ifindex, BANDWIDTH_OUT))
		return drop_skb(skb, drop_bandwidth);
	r = lb_none;
	if (local_filter_has(&f.saddr))
		r = lb_reverse(skb, &f);
	if (r == lb_none)
		r = lb_forward(skb, &f, LB_FROM_POD);
	if (unlikely(r < 0))
		return drop_skb(skb, -r);
	if (unlikely(r == lb_reply))
		return bpf_redirect(skb->ifindex, 0);
	/* Egress policy stands here: it judges backends, not services. */
	if (unlikely(self->flags & EP_CHAINED))
		return TCX_NEXT;
	dst = endpoint_lookup(&f.daddr);
	if (dst)
		return endpoint_deliver(skb, &f, dst, self->flags);
	if (cfg_vxlan_ifindex) {
		struct ipcache_entry *to = ipcache_lookup(&f.daddr);

		if (to && to->flags & IPCACHE_TUNNEL)
			return enter_tunnel(skb, &f, to);
	}
	return forward(skb, &f);
}

SEC("tcx/ingress")
int from_pod(struct __sk_buff *skb)
{
	return pod_out(skb);
}

SEC("tcx/egress")
int to_pod(struct __sk_buff *skb)
{
	struct endpoint *dst;
	struct flow f = {};
	int r;

	switch (parse_skb(skb, &f)) {
	case parse_ok:
		break;
	case parse_not_ip:
		return TCX_NEXT;
	default:
		return drop_skb(skb, drop_malformed);
	}
	dst = endpoint_lookup(&f.daddr);
	if (!dst)
		return TCX_NEXT; /* multicast, neighbour discovery */
	/* Ingress policy stands here, on addresses as they came. */
	if (unlikely(dst->flags & EP_LIMIT_IN) && !bandwidth_admit(skb, dst->ifindex, BANDWIDTH_IN))
		return drop_at(skb, drop_bandwidth, dst->ifindex);
	r = lb_reverse(skb, &f);
	if (unlikely(r < 0))
		return drop_at(skb, -r, dst->ifindex);
	return TCX_NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
