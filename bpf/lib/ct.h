/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Conntrack of translated connections. A connection has two entries, one per direction, each keyed by the packet as it arrives and holding the packet as it
 * leaves: a packet needs one lookup, whichever way it goes. The reply entry doubles as the claim on a translated source port.
 *
 * A connection whose answers go past this node (CT_DSR) has the first entry alone; its state is what the client's packets tell.
 *
 * States: new (only the first direction seen) -> established (both seen) -> closing (FIN both ways, or RST). Lifetimes are cfg_ct_*; user
 * space sweeps (dataplane/conntrack). A plain hash map: nothing is ever evicted for something newer. */
#pragma once

#include "bridge.h"
#include "maps.h"
#include "parse.h"
#include "hash.h"
#include "rewrite.h"

inline_fn void ct_key_of(struct ct_key *k, const struct flow *f)
{
	k->saddr = f->saddr;
	k->daddr = f->daddr;
	k->sport = f->sport;
	k->dport = f->dport;
	k->proto = f->proto;
	k->pad[0] = 0;
	k->pad[1] = 0;
	k->pad[2] = 0;
}

BRIDGE(ct_tcp)
BRIDGE(ct_any)

inline_fn struct ct *ct_get(const struct ct_key *k)
{
	struct ct *e;

	if (k->proto == IPPROTO_TCP) {
		e = bpf_map_lookup_elem(&ct_tcp, k);
		return cfg_bridge && !e ? ct_tcp_recall(k) : e;
	}
	e = bpf_map_lookup_elem(&ct_any, k);
	return cfg_bridge && !e ? ct_any_recall(k) : e;
}

inline_fn long ct_put(const struct ct_key *k, const struct ct *v, __u64 flags)
{
	long err;

	if (cfg_bridge && flags == BPF_NOEXIST)
		ct_get(k); /* what the old table has does exist */
	if (k->proto == IPPROTO_TCP) {
		err = bpf_map_update_elem(&ct_tcp, k, v, flags);
		if (cfg_bridge && !err)
			ct_tcp_tell(k, v);
	} else {
		err = bpf_map_update_elem(&ct_any, k, v, flags);
		if (cfg_bridge && !err)
			ct_any_tell(k, v);
	}
	return err;
}

inline_fn void ct_del(const struct ct_key *k)
{
	if (k->proto == IPPROTO_TCP)
		bpf_map_delete_elem(&ct_tcp, k);
	else
		bpf_map_delete_elem(&ct_any, k);
}

/* ct_pair_key is the key of the other direction's entry. */
inline_fn void ct_pair_key(struct ct_key *k, const struct ct *e, __u8 proto)
{
	k->saddr = e->daddr;
	k->daddr = e->saddr;
	k->sport = e->dport;
	k->dport = e->sport;
	k->proto = proto;
	k->pad[0] = 0;
	k->pad[1] = 0;
	k->pad[2] = 0;
}

/* ct_pair_update brings the other direction up to date after a change of state that both must know: rare per connection. */
static __noinline void ct_pair_update(const struct ct_key *own, struct ct *e, __u8 tcp_flags)
{
	struct ct_key k;
	struct ct *p;

	ct_pair_key(&k, e, own->proto);
	p = ct_get(&k);
	/* A pair that leads elsewhere belongs to a later connection. */
	if (p && (p->sport != own->dport || p->dport != own->sport || !addr_eq(&p->saddr, &own->daddr) || !addr_eq(&p->daddr, &own->saddr)))
		p = NULL;
	if (!p) {
		if (tcp_flags & TCP_RST)
			e->state = ct_closing;
		return;
	}
	if (tcp_flags & TCP_RST || (e->flags & CT_FIN_SEEN && p->flags & CT_FIN_SEEN)) {
		e->state = ct_closing;
		p->state = ct_closing;
	} else if (e->flags & CT_REPLY && e->state == ct_new) {
		e->state = ct_established;
		p->state = ct_established;
		p->flags |= CT_ASSURED;
	}
}

/* ct_touch_half is ct_touch for an entry without a pair. A client that acknowledges has an answer; one that ends its side has little more to say, and every
 * acknowledgement of its keeps the entry. */
inline_fn void ct_touch_half(struct ct *e, const struct flow *f)
{
	if (f->proto != IPPROTO_TCP || f->frag == FLOW_FRAG_LATER)
		return;
	if (f->tcp_flags & (TCP_FIN | TCP_RST))
		e->state = ct_closing;
	else if (e->state == ct_new && (f->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_ACK)
		e->state = ct_established;
}

/* ct_touch notes a packet of the direction of the entry e, whose key is k. */
inline_fn void ct_touch(const struct ct_key *k, struct ct *e, const struct flow *f, __u32 now)
{
	__u8 change = 0;

	if (e->last != now)
		WRITE_ONCE(e->last, now);
	if (unlikely(e->flags & CT_DSR)) {
		ct_touch_half(e, f);
		return;
	}
	if (f->proto == IPPROTO_TCP && f->frag != FLOW_FRAG_LATER) {
		change = f->tcp_flags & TCP_RST;
		if (f->tcp_flags & TCP_FIN && !(e->flags & CT_FIN_SEEN)) {
			e->flags |= CT_FIN_SEEN;
			change = 1;
		}
	}
	if (unlikely(change || (e->flags & CT_REPLY && e->state == ct_new)))
		ct_pair_update(k, e, f->proto == IPPROTO_TCP ? f->tcp_flags : 0);
}

/* ct_lifetime returns how long an entry lives without packets, in ticks. */
inline_fn __u32 ct_lifetime(const struct ct *e, __u8 proto)
{
	if (proto == IPPROTO_TCP) {
		if (e->state == ct_closing)
			return cfg_ct_tcp_closing;
		return e->state == ct_new ? cfg_ct_tcp_syn : cfg_ct_tcp_established;
	}
	return e->state == ct_new ? cfg_ct_udp : cfg_ct_udp_stream;
}

inline_fn int ct_expired(const struct ct *e, __u8 proto, __u32 now)
{
	return now - e->last > ct_lifetime(e, proto);
}

/* ct_create_half makes the entry of a connection whose answers go past this node; otherwise as ct_create. */
inline_fn int ct_create_half(const struct ct_key *k, const struct tuple *t, struct ct *e)
{
	e->saddr = t->saddr;
	e->daddr = t->daddr;
	e->sport = t->sport;
	e->dport = t->dport;
	e->state = ct_new;
	e->flags = CT_DSR;
	return ct_put(k, e, BPF_ANY) ? drop_ct_full : 0;
}

#define CT_PORT_TRIES 32
#define EEXIST 17

/* ct_create makes both entries of the connection that begins with the packet k and leaves as t. The caller has filled service, backend, generation and last of
 * e, the rest is scratch. With snat, and where the tuple is taken, t->sport becomes a claimed port. Returns 0, or a drop reason: drop_snat_exhausted, or drop_ct_full, after which no entry exists. */
static __noinline int ct_create(const struct ct_key *k, struct tuple *t, struct ct *e, struct ct_key *rk, int snat)
{
	__u8 on_node = e->flags & CT_ON_NODE;
	struct ct *old;
	__u32 start, range = cfg_snat_port_max - cfg_snat_port_min + 1;
	long err;
	int i;

	e->saddr = k->daddr;
	e->daddr = k->saddr;
	e->sport = k->dport;
	e->dport = k->sport;
	e->flags = CT_REPLY | on_node | (snat ? CT_SNAT : 0);
	e->state = ct_new;
	rk->saddr = t->daddr;
	rk->daddr = t->saddr;
	rk->sport = t->dport;
	rk->dport = t->sport;
	rk->proto = k->proto;
	rk->pad[0] = 0;
	rk->pad[1] = 0;
	rk->pad[2] = 0;
	if (!snat) {
		err = ct_put(rk, e, BPF_NOEXIST);
		if (err == -EEXIST) {
			old = ct_get(rk);
			/* The same connection again, or the remains of an old one: take over. Else the same client port reaches the same
			 * backend through two services: translate the port of the newcomer. */
			if (!old || (old->sport == e->sport && addr_eq(&old->saddr, &e->saddr)) || old->state == ct_closing ||
			    ct_expired(old, k->proto, e->last))
				err = ct_put(rk, e, BPF_ANY);
			else
				snat = 1;
		}
	}
	if (snat) {
		/* SCTP's checksum covers the ports: there only the client's own will do. */
		int tries = k->proto == IPPROTO_SCTP ? 1 : CT_PORT_TRIES;

		e->flags |= CT_SNAT;
		start = flow_hash(&k->saddr, &k->daddr, k->sport, k->dport, k->proto) ^ bpf_get_prandom_u32();
		err = -EEXIST;
		for (i = 0; i < CT_PORT_TRIES; i++) {
			if (i >= tries)
				break;
			if (tries > 1)
				rk->dport = bpf_htons(cfg_snat_port_min + hash_scale(start + i * 0x9e3779b9, range));
			err = ct_put(rk, e, BPF_NOEXIST);
			if (err != -EEXIST)
				break;
			lb_count(lb_snat_retry);
		}
		if (err == -EEXIST)
			return drop_snat_exhausted;
		t->sport = rk->dport;
	}
	if (err)
		return drop_ct_full;
	e->saddr = t->saddr;
	e->daddr = t->daddr;
	e->sport = t->sport;
	e->dport = t->dport;
	e->flags = on_node | (snat ? CT_SNAT : 0);
	if (ct_put(k, e, BPF_ANY)) {
		ct_del(rk);
		return drop_ct_full;
	}
	return 0;
}
