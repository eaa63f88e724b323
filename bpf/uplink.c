/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The devices where traffic from outside arrives, by tcx: all that xdp.c does and what it leaves.
 *
 *   uplink_in  (tcx ingress): answers from remote backends -> client; packets for services -> backend here (on to the kernel and the pod network's program)
 *                             or elsewhere (source-translated, or for direct server return as they are; out by the route); what another node sends that way -> backend here
 *   uplink_out (tcx egress):  answers of this node's backends get the service's address
 */
#define LB_PEERS 1
#include "lib/dsr.h"

/* route_out sends the packet f, rewritten to t or with dsr dispatched to it, out by the route to t's destination. Tells the sender when it is too big for that. */
static __noinline int route_out(struct __sk_buff *skb, struct flow *f, const struct tuple *t, int dsr)
{
	__u32 more = dsr ? dsr_overhead(f->family) : 0;
	struct bpf_redir_neigh nh = {};
	struct bpf_fib_lookup fib = {};
	int r;

	if (unlikely(f->ttl <= 1))
		return drop_skb(skb, drop_ttl);
	fib.ifindex = skb->ifindex;
	fib.l4_protocol = f->proto;
	fib.tot_len = skb_segment_len(skb, f) + more;
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
	r = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_SKIP_NEIGH);
	if (r == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		r = icmp_send(skb, f, icmp_too_big, fib.mtu_result - more);
		if (!r)
			return bpf_redirect(skb->ifindex, 0);
		return drop_skb(skb, drop_too_big);
	}
	if (r != BPF_FIB_LKUP_RET_SUCCESS)
		return drop_skb(skb, drop_fib);
	if (dsr)
		r = skb_dec_ttl(skb, f) ? drop_write : dsr_send(skb, f, t);
	else
		r = rewrite(skb, f, t) || skb_dec_ttl(skb, f) ? drop_write : 0;
	if (r)
		return drop_skb(skb, r);
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

SEC("tcx/ingress")
int uplink_in(struct __sk_buff *skb)
{
	struct lb_decision d = {};
	struct flow f = {};
	__u16 port;
	int r;

	if (parse_skb(skb, &f) != parse_ok)
		return TCX_NEXT;
	if (unlikely(dsr_candidate(&f))) {
		r = dsr_in(skb, &f, &d);
		if (r < 0)
			return drop_skb(skb, -r);
		if (r == lb_done)
			return TCX_NEXT;
		d.peer = 0;
	}
	if (!vip_filter_has(&f.daddr))
		return TCX_NEXT;
	if (unlikely(flow_is_icmp_error(&f))) {
		r = icmp_error_translate(skb, &f);
		if (r < 0)
			return drop_skb(skb, -r);
		if (r && !local_filter_has(&f.daddr)) {
			d.t.saddr = f.saddr;
			d.t.daddr = f.daddr;
			d.t.sport = f.sport;
			d.t.dport = f.dport;
			return route_out(skb, &f, &d.t, 0);
		}
		return TCX_NEXT;
	}
	if (unlikely(f.frag == FLOW_FRAG_LATER))
		frag_resolve(&f);
	port = bpf_ntohs(f.dport);
	if (lb_snat_port(f.proto, port) && lb_reverse_find(&f, &d.t) == lb_done) {
		lb_count(lb_returned);
		return route_out(skb, &f, &d.t, 0);
	}
	r = lb_decide(&f, LB_FROM_WIRE, &d);
	if (r == lb_none)
		return TCX_NEXT;
	if (r == lb_reply) {
		r = lb_answer(skb, &f);
		if (r == lb_reply)
			return bpf_redirect(skb->ifindex, 0);
	}
	if (r < 0)
		return drop_skb(skb, -r);
	lb_count(lb_forwarded);
	if (!d.on_node)
		return route_out(skb, &f, &d.t, d.dsr);
	r = rewrite(skb, &f, &d.t);
	if (r)
		return drop_skb(skb, r);
	return TCX_NEXT;
}

SEC("tcx/egress")
int uplink_out(struct __sk_buff *skb)
{
	struct flow f = {};
	int r;

	if (parse_skb(skb, &f) != parse_ok || !local_filter_has(&f.saddr))
		return TCX_NEXT;
	r = lb_reverse(skb, &f);
	if (r < 0)
		return drop_skb(skb, -r);
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
