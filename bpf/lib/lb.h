/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Per-packet service translation, for XDP and tc programs.
 *
 * A packet goes through two steps, which callers take in this order:
 *
 *   r = lb_reverse(ctx, &f);                 is it an answer of a translated connection? Then its source becomes the service again
 *   if (r == lb_none)
 *           r = lb_forward(ctx, &f, from);   is it for a service? Then its destination becomes a backend
 *
 * Both return
 *   lb_none   not ours, or answered under the service's own address on this node: packet and flow untouched
 *   lb_done   translated: packet and f say the new tuple; route it by f.daddr
 *   lb_reply  the packet has become the answer to its sender (echo reply, ICMP error): send it back out of the device it came from
 *   < 0       drop it; -r is the enum drop_reason, which the caller counts
 *
 * from says where the packet comes from: LB_FROM_POD (a local pod's veth: never source-translated but for a pod that reaches itself) or
 * LB_FROM_WIRE (an uplink: when the backend is elsewhere, source-translated, so that answers come back here, or dispatched by dsr.h).
 * f must come from parse_skb or parse_eth of this very packet. Call lb_forward before any policy that names backends, lb_reverse after it.
 * Where to call: from_pod: both; everything delivered to a pod (endpoint_deliver, to_pod): lb_reverse; uplinks: uplink.c and xdp.c have done it already. */
#pragma once

#include "select.h"
#include "ct.h"
#include "icmp.h"
#include "reset.h"
#include "ipcache.h"
#include "node.h"

enum lb_result {
	lb_none = 0,
	lb_done = 1,
	lb_reply = 2,
};

enum lb_from {
	LB_FROM_WIRE = 0,
	LB_FROM_POD,
};

/* lb_decision is what lb_decide found: the tuple to write, not written yet. */
struct lb_decision {
	struct tuple t;
	__u8 on_node; /* the backend runs on this node */
	__u8 snat;
	__u8 dsr; /* to be dispatched by dsr_send */
	__u8 peer; /* filled by the caller, 1: another node has chosen a backend of ours, t.daddr (dsr.h) */
};

/* A program that takes packets from other nodes (dsr.h) defines LB_PEERS as 1 before including anything; the others have nothing of it. */
#ifndef LB_PEERS
#define LB_PEERS 0
#endif

inline_fn int from_peer(const struct lb_decision *d)
{
	return LB_PEERS && d->peer;
}

/* frag_resolve gives a later fragment the ports of its first. Returns 0 if f has its ports now, -1 if they are unknown. */
inline_fn int frag_resolve(struct flow *f)
{
	struct frag_key k = {};
	struct frag *known, v;

	if (likely(!f->frag))
		return 0;
	k.saddr = f->saddr;
	k.daddr = f->daddr;
	k.id = f->frag_id;
	k.proto = f->proto;
	if (f->frag == FLOW_FRAG_FIRST) {
		v.sport = f->sport;
		v.dport = f->dport;
		bpf_map_update_elem(&frags, &k, &v, BPF_ANY);
		return 0;
	}
	known = bpf_map_lookup_elem(&frags, &k);
	if (!known)
		return -1;
	f->sport = known->sport;
	f->dport = known->dport;
	return 0;
}

inline_fn int proto_has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* Room for what a new connection needs beyond the stack. Programs that use it run with bottom halves off, one at a time per CPU. */
struct lb_scratch {
	struct ct ct;
	struct ct_key reverse;
	struct source_range_key range;
	struct flow inner; /* of dsr_in */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct lb_scratch);
	__uint(max_entries, 1);
} lb_scratches SEC(".maps");

/* source_allowed says whether the service's load balancer source ranges admit a client. */
static __noinline int source_allowed(struct source_range_key *rk, const struct addr *client, __u32 service)
{
	rk->prefixlen = 32 + 128;
	rk->service = service;
	rk->addr = *client;
	return bpf_map_lookup_elem(&source_ranges, rk) != NULL;
}

/* local_backend finds the backend of a service that has the address a and runs here. */
static __noinline struct backend *local_backend(const struct service *svc, const struct addr *a, __u32 *row)
{
	struct local_backend_key k = { .addr = *a, .service = svc->id };
	__u32 *known = bpf_map_lookup_elem(&local_backends, &k);
	struct backend *b;

	if (!known)
		return NULL;
	*row = *known;
	b = backend_at(*row);
	if (!b || b->service != svc->id || !addr_eq(&b->addr, a) || (b->flags & (BACKEND_ON_NODE | BACKEND_LIVE)) != (BACKEND_ON_NODE | BACKEND_LIVE))
		return NULL;
	return b;
}

/* dsr_reaches says whether a client's packet can be brought to a remote backend as it is: not through the overlay, whose other end lets in what comes from the sender's pods. */
static __noinline int dsr_reaches(const struct addr *a)
{
	struct ipcache_entry *e;

	if (!cfg_vxlan_ifindex)
		return 1;
	e = ipcache_lookup(a);
	return !e || !(e->flags & IPCACHE_TUNNEL);
}

/* lb_begin chooses a backend for the first packet of a connection: it fills d and what s->ct says of the connection. Returns 0 or a drop reason. */
static __noinline int lb_begin(const struct ct_key *k, struct service *svc, enum lb_scope scope, enum lb_from from, struct lb_decision *d, struct lb_scratch *s)
{
	__u32 hash, row = 0;
	struct backend *b;

	if (scope == scope_out && svc->flags & SERVICE_SOURCE_RANGES && !source_allowed(&s->range, &k->saddr, svc->id))
		return drop_source_range;
	if (from_peer(d)) {
		b = local_backend(svc, &d->t.daddr, &row);
	} else {
		hash = flow_hash(&k->saddr, &k->daddr, k->sport, k->dport, k->proto);
		b = service_select(svc, scope, &k->saddr, hash, &row);
	}
	if (!b)
		return drop_no_backend;
	d->t.saddr = k->saddr;
	d->t.sport = k->sport;
	d->t.daddr = b->addr;
	d->t.dport = b->port;
	d->on_node = !!(b->flags & BACKEND_ON_NODE);
	if (k->proto == IPPROTO_SCTP && k->dport != b->port)
		return drop_unsupported_proto;
	d->dsr = cfg_dsr && from == LB_FROM_WIRE && !d->on_node && svc->flags & SERVICE_DSR && dsr_reaches(&b->addr);
	if ((from == LB_FROM_WIRE && !d->on_node && !d->dsr) || (from == LB_FROM_POD && addr_eq(&b->addr, &k->saddr))) {
		const volatile struct addr *node = addr_is4(&b->addr) ? &cfg_node_ip4 : &cfg_node_ip6;

		if (!(node->w[0] | node->w[1] | node->w[2] | node->w[3]))
			return drop_internal;
		d->t.saddr.w[0] = node->w[0];
		d->t.saddr.w[1] = node->w[1];
		d->t.saddr.w[2] = node->w[2];
		d->t.saddr.w[3] = node->w[3];
		d->snat = 1;
	}
	s->ct.service = svc->id;
	s->ct.backend = row;
	s->ct.generation = b->generation;
	s->ct.last = clock_ticks();
	s->ct.pad = 0;
	s->ct.flags = d->on_node ? CT_ON_NODE : 0;
	return 0;
}

/* lb_remember makes the entries of the connection that lb_begin began. Returns 0 or a drop reason. */
inline_fn int lb_remember(const struct ct_key *k, struct lb_decision *d, struct lb_scratch *s)
{
	int r = d->dsr ? ct_create_half(k, &d->t, &s->ct) : ct_create(k, &d->t, &s->ct, &s->reverse, d->snat);

	if (likely(!r)) {
		lb_count(lb_new);
	} else if (r == drop_ct_full) {
		/* No room. What needs no claimed port goes on by the hash alone, which every node and every packet computes alike. */
		lb_count(lb_ct_full);
		if (!d->snat)
			return 0;
	}
	return r;
}

/* lb_continue fills d by the entry of the packet's connection and notes the packet. */
inline_fn int lb_continue(const struct ct_key *k, struct ct *e, const struct flow *f, struct lb_decision *d)
{
	ct_touch(k, e, f, clock_ticks());
	d->t.saddr = e->saddr;
	d->t.daddr = e->daddr;
	d->t.sport = e->sport;
	d->t.dport = e->dport;
	d->snat = e->flags & CT_SNAT;
	d->on_node = !!(e->flags & CT_ON_NODE);
	d->dsr = !!(e->flags & CT_DSR);
	return lb_done;
}

/* lb_service is service_find with a stack of its own. */
static __noinline struct service *lb_service(const struct flow *f, __u16 *address)
{
	return service_find(&f->daddr, f->dport, f->proto, address);
}

/* lb_peer_service is lb_service for a packet that another node forwards: a NodePort was asked for under that node's address. */
static __noinline struct service *lb_peer_service(const struct flow *f)
{
	struct service_key k = { .addr = f->daddr, .port = f->dport, .proto = f->proto };
	struct service *svc = bpf_map_lookup_elem(&services, &k);

	if (svc)
		return svc;
	if (f->family == AF_INET)
		k.addr.w[3] = 0;
	else
		memset(&k.addr, 0, sizeof(k.addr));
	return bpf_map_lookup_elem(&services, &k);
}

/* lb_portless decides about what has no ports: pings to service addresses are answered. */
static __noinline int lb_portless(const struct flow *f)
{
	struct service_key k = { .addr = f->daddr };
	struct service *svc = bpf_map_lookup_elem(&services, &k);

	if (svc && svc->flags & SERVICE_VIP)
		return flow_is_echo_request(f) ? lb_reply : -drop_no_service;
	return lb_none;
}

/* lb_decide finds the translation of a packet towards a service, without touching the packet. Returns lb_none, lb_done (d is filled), lb_reply if the packet must
 * be answered by lb_answer (never what a peer sent), or < 0. The caller has filled d->peer. */
static __noinline int lb_decide(struct flow *f, enum lb_from from, struct lb_decision *d)
{
	enum lb_scope scope = from == LB_FROM_POD || addr_is_pod(&f->saddr) ? scope_in : scope_out;
	struct lb_scratch *s;
	struct service *svc;
	struct backend *b;
	struct ct_key k;
	struct ct *e;
	__u32 zero = 0;
	__u16 address;
	int r, fresh = 0;

	if (unlikely(!proto_has_ports(f->proto)))
		return from_peer(d) ? lb_none : lb_portless(f);
	if (unlikely(frag_resolve(f)))
		return -drop_fragment;
	/* The connection first: while its backend is there, the service need not be looked for. */
	ct_key_of(&k, f);
	e = ct_get(&k);
	if (e && e->flags & CT_REPLY)
		e = NULL;
	if (e && from_peer(d) && !(e->flags & CT_ON_NODE))
		e = NULL; /* of when the flow came to this node first, and led elsewhere */
	if (likely(e != NULL)) {
		b = backend_at(e->backend);
		b = b && b->generation == e->generation && b->flags & BACKEND_LIVE ? b : NULL;
		/* What may begin a connection does so anew, if the old has ended or its backend is gone. */
		fresh = f->proto != IPPROTO_TCP || ((f->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && f->frag != FLOW_FRAG_LATER);
		fresh = fresh && (e->state == ct_closing || !b);
		if (likely(b && !fresh))
			return lb_continue(&k, e, f, d);
	}
	if (from_peer(d)) {
		address = 0;
		svc = lb_peer_service(f);
	} else {
		svc = lb_service(f, &address);
	}
	if (!svc)
		return address & SERVICE_VIP ? lb_reply : lb_none;
	if (e && !fresh)
		return lb_continue(&k, e, f, d);
	if (from == LB_FROM_POD && svc->flags & SERVICE_HERE) {
		if (e)
			ct_del(&k); /* of when another node answered: what follows goes where this packet goes */
		return lb_none;
	}
	s = bpf_map_lookup_elem(&lb_scratches, &zero);
	if (!s)
		return -drop_internal;
	r = lb_begin(&k, svc, scope, from, d, s);
	if (likely(!r))
		r = lb_remember(&k, d, s);
	if (likely(!r))
		return lb_done;
	/* A local-only address whose backends are elsewhere stays silent, as a load balancer expects of a node it should not have asked. */
	if (r == drop_no_backend && !(svc->flags & SERVICE_HAS_REMOTE) && !from_peer(d))
		return lb_reply;
	return -r;
}

/* lb_answer turns a packet for which lb_decide returned lb_reply into its answer. */
inline_fn int lb_answer(ctx_t *ctx, struct flow *f)
{
	int r;

	if (flow_is_echo_request(f)) {
		lb_count(lb_echo);
		r = icmp_echo_reply(ctx, f);
	} else {
		lb_count(lb_rejected);
		r = f->proto == IPPROTO_TCP && !f->frag ? tcp_reset(ctx, f) : icmp_send(ctx, f, icmp_port_unreachable, 0);
	}
	return r ? -r : lb_reply;
}

inline_fn int lb_forward(ctx_t *ctx, struct flow *f, enum lb_from from)
{
	struct lb_decision d = {};
	int r;

	if (!vip_filter_has(&f->daddr))
		return lb_none;
	if (unlikely(flow_is_icmp_error(f)))
		return icmp_error_translate(ctx, f);
	r = lb_decide(f, from, &d);
	if (r == lb_reply)
		return lb_answer(ctx, f);
	if (r != lb_done)
		return r;
	r = rewrite(ctx, f, &d.t);
	lb_count(lb_forwarded);
	return r ? -r : lb_done;
}

/* lb_snat_port says whether a packet to one of the node's addresses may be an answer to a source-translated flow. SCTP keeps its ports. */
inline_fn int lb_snat_port(__u8 proto, __u16 dport)
{
	return (dport >= cfg_snat_port_min && dport <= cfg_snat_port_max) || proto == IPPROTO_SCTP;
}

/* lb_reverse_find looks for the translation of an answer and notes the packet. Returns lb_none or lb_done (t is filled). */
inline_fn int lb_reverse_find(struct flow *f, struct tuple *t)
{
	struct ct_key k;
	struct ct *e;

	if (!proto_has_ports(f->proto) || frag_resolve(f))
		return lb_none;
	ct_key_of(&k, f);
	e = ct_get(&k);
	if (!e || !(e->flags & CT_REPLY))
		return lb_none;
	ct_touch(&k, e, f, clock_ticks());
	t->saddr = e->saddr;
	t->daddr = e->daddr;
	t->sport = e->sport;
	t->dport = e->dport;
	return lb_done;
}

inline_fn int lb_reverse(ctx_t *ctx, struct flow *f)
{
	struct tuple t;
	int r;

	if (unlikely(flow_is_icmp_error(f)))
		return icmp_error_translate(ctx, f);
	r = lb_reverse_find(f, &t);
	if (r != lb_done)
		return r;
	r = rewrite(ctx, f, &t);
	lb_count(lb_returned);
	return r ? -r : lb_done;
}
