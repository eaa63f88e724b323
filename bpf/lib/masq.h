/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Masquerading: pods reach what is outside the cluster under the node's address.
 *
 * A flow has two entries in one LRU map: out (pod, remote) -> (node address, port) and in (node address, port, remote) -> pod. Ports are chosen per remote
 * address, port and protocol, so two flows share a port unless they go to the same place. Each packet outwards touches both entries, so they age together; a lost half is
 * made again. ICMP echo uses its identifier as the port; SCTP keeps its port (its checksum covers it); other protocols have no port and one flow per remote.
 * ICMP errors are translated by the packet they quote. Later fragments take their ports from the first one (frag_resolve). */
#pragma once

#include "bridge.h"
#include "lb.h"
#include "node.h"

/* The node's addresses on an uplink: what its pods are masqueraded as. A zero address switches the family off. */
struct uplink {
	struct addr addr4;
	struct addr addr6;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* ifindex */
	__type(value, struct uplink);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} uplinks SEC(".maps");

#define MASQ_OUT 0
#define MASQ_IN 1

struct masq_key {
	struct addr local; /* MASQ_OUT: the pod's; MASQ_IN: the node's */
	struct addr remote;
	__be16 lport;
	__be16 rport;
	__u8 proto;
	__u8 dir; /* MASQ_* */
	__u16 pad;
};
_Static_assert(sizeof(struct masq_key) == 40, "masq_key is 40 bytes");

struct masq_entry {
	struct addr addr; /* MASQ_OUT: the node's; MASQ_IN: the pod's */
	__be16 port;
	__u16 pad[3];
	__u64 last; /* ns, bpf_ktime_get_ns, of the last packet outwards */
};
_Static_assert(sizeof(struct masq_entry) == 32, "masq_entry is 32 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct masq_key);
	__type(value, struct masq_entry);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} masquerade SEC(".maps");

/* Flows that the outside opened towards a pod's own address: their replies keep it. Value: ns of the last packet inwards. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct masq_key);
	__type(value, __u64);
	__uint(max_entries, 16384);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} inbound SEC(".maps");

BRIDGE(masquerade)
BRIDGE(inbound)

inline_fn struct masq_entry *masq_get(const struct masq_key *k)
{
	struct masq_entry *e = bpf_map_lookup_elem(&masquerade, k);

	return cfg_bridge && !e ? masquerade_recall(k) : e;
}

inline_fn long masq_put(const struct masq_key *k, const struct masq_entry *e, __u64 flags)
{
	long err;

	if (cfg_bridge && flags == BPF_NOEXIST)
		masquerade_recall(k); /* what the old table has does exist */
	err = bpf_map_update_elem(&masquerade, k, e, flags);
	if (cfg_bridge && !err)
		masquerade_tell(k, e);
	return err;
}

/* inbound_get returns when the outside last sent a packet of the flow k that it opened, NULL if it did not. */
inline_fn __u64 *inbound_get(const struct masq_key *k)
{
	__u64 *seen = bpf_map_lookup_elem(&inbound, k);

	return cfg_bridge && !seen ? inbound_recall(k) : seen;
}

/* inbound_note notes a packet of a flow that the outside opened. */
inline_fn void inbound_note(const struct masq_key *k)
{
	__u64 *seen = inbound_get(k), now = bpf_ktime_get_ns();

	if (seen) {
		*seen = now;
		return;
	}
	bpf_map_update_elem(&inbound, k, &now, BPF_ANY);
	if (cfg_bridge)
		inbound_tell(k, &now);
}

/* l4_check_off returns the offset of the transport checksum that covers the addresses or the ports, or 0 if there is none to mend. */
inline_fn __u32 l4_check_off(const struct flow *f)
{
	if (f->frag == FLOW_FRAG_LATER)
		return 0;
	switch (f->proto) {
	case IPPROTO_TCP:
		return f->l4_off + offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return f->l4_off + offsetof(struct udphdr, check);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return f->l4_off + offsetof(struct icmphdr, checksum);
	}
	return 0;
}

/* masq_set_addr replaces the source (or destination) address of the packet's IP header and mends the checksums over it. */
inline_fn int masq_set_addr(struct __sk_buff *skb, const struct flow *f, const struct addr *from, const struct addr *to, int dst)
{
	__u32 check = l4_check_off(f);
	__u64 flags = BPF_F_PSEUDO_HDR | (f->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);

	if (f->family == AF_INET) {
		__u32 off = f->l3_off + (dst ? offsetof(struct iphdr, daddr) : offsetof(struct iphdr, saddr));

		if (check && f->proto != IPPROTO_ICMP && bpf_l4_csum_replace(skb, check, from->w[3], to->w[3], flags | 4))
			return -1;
		if (bpf_l3_csum_replace(skb, f->l3_off + offsetof(struct iphdr, check), from->w[3], to->w[3], 4))
			return -1;
		return bpf_skb_store_bytes(skb, off, &to->w[3], 4, 0);
	}
	if (check) {
		__s64 diff = bpf_csum_diff((__be32 *)from->w, 16, (__be32 *)to->w, 16, 0);

		if (bpf_l4_csum_replace(skb, check, 0, diff, flags | cfg_l4_csum_ipv6))
			return -1;
	}
	return bpf_skb_store_bytes(skb, f->l3_off + (dst ? offsetof(struct ipv6hdr, daddr) : offsetof(struct ipv6hdr, saddr)), to->w, 16, 0);
}

/* masq_set_port replaces the source (or destination) port, or the ICMP echo identifier. */
inline_fn int masq_set_port(struct __sk_buff *skb, const struct flow *f, __be16 from, __be16 to, int dst)
{
	__u32 check = l4_check_off(f);
	__u32 off = f->l4_off + (dst ? 2 : 0);

	if (from == to || f->frag == FLOW_FRAG_LATER)
		return 0;
	if (!check)
		return -1;
	if (f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6)
		off = f->l4_off + 4;
	if (bpf_l4_csum_replace(skb, check, from, to, (f->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0) | 2))
		return -1;
	return bpf_skb_store_bytes(skb, off, &to, 2, 0);
}

inline_fn __u32 masq_hash(const struct masq_key *k)
{
	const __u32 *w = (const __u32 *)k;
	__u32 h = 0x9e3779b9;
	int i;

	for (i = 0; i < sizeof(*k) / 4; i++) {
		h ^= w[i];
		h *= 0x85ebca6b;
		h ^= h >> 15;
	}
	return h;
}

#define MASQ_TRIES 48

/* masq_claim finds a port for the flow k (MASQ_OUT) under the address node and claims it: it makes both entries and fills e. Returns 0, or -1 when
 * MASQ_TRIES ports in a row are taken. Static, because kernels before 6.4 take no key from a global function's argument. */
static __noinline int masq_claim(const struct masq_key *k, const struct addr *node, struct masq_entry *e)
{
	struct masq_entry in = {};
	struct masq_key ik;
	__u32 range = cfg_masq_port_max - cfg_masq_port_min + 1, at;
	int i, tries = MASQ_TRIES;

	if (!k || !node || !e)
		return -1;
	ik = *k;
	ik.local = *node;
	ik.dir = MASQ_IN;
	in.addr = k->local;
	in.port = k->lport;
	in.last = bpf_ktime_get_ns();
	at = masq_hash(k) ^ bpf_get_prandom_u32();
	/* What has no port that could be changed keeps its own, if nobody has it. */
	if (k->proto != IPPROTO_TCP && k->proto != IPPROTO_UDP && k->proto != IPPROTO_ICMP && k->proto != IPPROTO_ICMPV6)
		tries = 1;
	for (i = 0; i < MASQ_TRIES; i++) {
		if (i >= tries || !range)
			break;
		if (tries > 1)
			ik.lport = bpf_htons(cfg_masq_port_min + (at + i) % range);
		if (!masq_put(&ik, &in, BPF_NOEXIST)) {
			e->addr = *node;
			e->port = ik.lport;
			e->last = in.last;
			if (!masq_put(k, e, BPF_ANY))
				return 0;
			bpf_map_delete_elem(&masquerade, &ik);
			return -1;
		}
	}
	return -1;
}

inline_fn void masq_key_out(struct masq_key *k, const struct flow *f)
{
	k->local = f->saddr;
	k->remote = f->daddr;
	k->lport = f->sport;
	k->rport = f->dport;
	k->proto = f->proto;
	k->dir = MASQ_OUT;
	k->pad = 0;
}

inline_fn void masq_key_in(struct masq_key *k, const struct flow *f)
{
	k->local = f->daddr;
	k->remote = f->saddr;
	k->lport = f->dport;
	k->rport = f->sport;
	k->proto = f->proto;
	k->dir = MASQ_IN;
	k->pad = 0;
	if (f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6) { /* parse_ports puts the identifier into sport, in either direction */
		k->lport = f->sport;
		k->rport = 0;
	}
}

/* masq_out gives the pod's packet f the node's address. Returns 0 or the reason for a drop. f becomes the changed flow. */
inline_fn int masq_out(struct __sk_buff *skb, struct flow *f, const struct uplink *up)
{
	const struct addr *node = f->family == AF_INET ? &up->addr4 : &up->addr6;
	struct masq_entry *known, *back, e = {};
	struct masq_key k;

	masq_key_out(&k, f);
	known = masq_get(&k);
	if (known && addr_eq(&known->addr, node)) {
		struct masq_key ik = k;

		e.addr = known->addr;
		e.port = known->port;
		e.last = bpf_ktime_get_ns();
		known->last = e.last;
		ik.local = e.addr;
		ik.lport = e.port;
		ik.dir = MASQ_IN;
		back = masq_get(&ik);
		if (back && addr_eq(&back->addr, &k.local) && back->port == k.lport) {
			back->last = e.last;
		} else {
			struct masq_entry in = { .addr = k.local, .port = k.lport, .last = e.last };

			if (back || masq_put(&ik, &in, BPF_NOEXIST))
				known = NULL; /* another flow has the port now */
		}
	} else {
		known = NULL; /* none, or one from before the node's address changed */
	}
	if (!known && masq_claim(&k, node, &e))
		return drop_snat_exhausted;
	if (masq_set_port(skb, f, f->sport, e.port, 0) || masq_set_addr(skb, f, &f->saddr, &e.addr, 0))
		return drop_write;
	f->saddr = e.addr;
	f->sport = e.port;
	return 0;
}

/* masq_in gives a reply its pod back. Returns 1 if it was one (f is changed), 0 if not, or a negative drop reason. */
inline_fn int masq_in(struct __sk_buff *skb, struct flow *f)
{
	struct masq_entry *known, e;
	struct masq_key k;
	int icmp = f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6;

	masq_key_in(&k, f);
	known = masq_get(&k);
	if (!known)
		return 0;
	e = *known;
	if (masq_set_port(skb, f, k.lport, e.port, 1) || masq_set_addr(skb, f, &f->daddr, &e.addr, 1))
		return -drop_write;
	f->daddr = e.addr;
	if (icmp)
		f->sport = e.port;
	else
		f->dport = e.port;
	return 1;
}

/* masq_error translates an ICMP error by the packet it quotes. Inwards (dir MASQ_IN) the quoted packet is one that masq_out changed: its source becomes the pod's, and so does the
 * error's destination. Outwards (MASQ_OUT) it quotes a packet that masq_in changed: its destination, and the error's source, become the node's.
 * Returns 1 if the error was one of these (f is changed), 0 if not, or a negative drop reason. */
__noinline int masq_error(struct __sk_buff *skb, struct flow *f, int dir)
{
	struct addr old, new;
	struct masq_entry *known;
	struct masq_key k = {};
	struct flow in = {};
	__u32 check, port_off, addr_off, head;
	__be16 oport, nport;
	void *data, *data_end;
	int r;

	if (!f)
		return -drop_internal;
	check = f->l4_off + offsetof(struct icmphdr, checksum);
	head = f->l4_off + 8;
	if (head > 0x7ff || bpf_skb_pull_data(skb, skb->len < head + 68 ? skb->len : head + 68))
		return 0;
	data = (void *)(long)skb->data;
	data_end = (void *)(long)skb->data_end;
	head &= 0x7ff;
	if (f->family == AF_INET)
		r = parse_v4(data, data_end, head, &in);
	else
		r = parse_v6(data, data_end, head, &in);
	if (r != parse_ok || in.frag == FLOW_FRAG_LATER)
		return 0;
	in.l4_off &= 0x7ff;
	if (data + in.l4_off + 8 > data_end) /* RFC 792: at least eight bytes of the transport header are quoted */
		return 0;
	switch (in.proto) {
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		in.sport = *(__be16 *)(data + in.l4_off + 4);
		break;
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		in.sport = *(__be16 *)(data + in.l4_off);
		in.dport = *(__be16 *)(data + in.l4_off + 2);
		break;
	}
	k.proto = in.proto;
	k.dir = dir;
	if (dir == MASQ_IN) {
		k.local = in.saddr;
		k.remote = in.daddr;
		k.lport = in.sport;
		k.rport = in.dport;
	} else {
		k.local = in.daddr;
		k.remote = in.saddr;
		k.lport = in.dport;
		k.rport = in.sport;
		if (in.proto == IPPROTO_ICMP || in.proto == IPPROTO_ICMPV6) {
			k.lport = in.sport;
			k.rport = 0;
		}
	}
	known = masq_get(&k);
	if (!known)
		return 0;
	old = k.local;
	new = known->addr;
	oport = k.lport;
	nport = known->port;
	port_off = in.l4_off + (dir == MASQ_IN ? 0 : 2);
	if (in.proto == IPPROTO_ICMP || in.proto == IPPROTO_ICMPV6)
		port_off = in.l4_off + 4;

	/* The quoted port, under the ICMP checksum. The quoted transport checksum is left: nobody can verify it on a cut packet. */
	if (oport != nport) {
		if (bpf_l4_csum_replace(skb, check, oport, nport, 2) || bpf_skb_store_bytes(skb, port_off, &nport, 2, 0))
			return -drop_write;
	}
	if (f->family == AF_INET) {
		/* In IPv4 the quoted header's own checksum balances its address, so the ICMP checksum stays. */
		addr_off = in.l3_off + (dir == MASQ_IN ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		if (bpf_l3_csum_replace(skb, in.l3_off + offsetof(struct iphdr, check), old.w[3], new.w[3], 4) ||
		    bpf_skb_store_bytes(skb, addr_off, &new.w[3], 4, 0))
			return -drop_write;
	} else {
		__s64 diff = bpf_csum_diff(old.w, 16, new.w, 16, 0);

		addr_off = in.l3_off + (dir == MASQ_IN ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		if (bpf_l4_csum_replace(skb, check, 0, diff, 0) || bpf_skb_store_bytes(skb, addr_off, new.w, 16, 0))
			return -drop_write;
	}
	if (dir == MASQ_IN) {
		if (masq_set_addr(skb, f, &f->daddr, &new, 1))
			return -drop_write;
		f->daddr = new;
	} else {
		if (masq_set_addr(skb, f, &f->saddr, &new, 0))
			return -drop_write;
		f->saddr = new;
	}
	return 1;
}
