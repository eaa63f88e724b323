/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Backend choice: shared by the socket hooks and the packet programs. */
#pragma once

#include "maps.h"
#include "hash.h"

enum lb_scope {
	scope_out = 0, /* from outside the cluster */
	scope_in, /* from a pod, a node, or a process on this node */
};

inline_fn int vip_filter_has(const struct addr *a)
{
	__u32 zero = 0, bit = addr_filter_bit(a);
	struct vip_bits *f = bpf_map_lookup_elem(&vip_filter, &zero);

	return f && (f->bits[(bit >> 6) & (VIP_FILTER_WORDS - 1)] >> (bit & 63)) & 1;
}

/* local_filter_has says whether a may be the address of a backend on this node. */
inline_fn int local_filter_has(const struct addr *a)
{
	__u32 zero = 0, bit = addr_filter_bit(a);
	struct vip_bits *f = bpf_map_lookup_elem(&local_filter, &zero);

	return f && (f->bits[(bit >> 6) & (VIP_FILTER_WORDS - 1)] >> (bit & 63)) & 1;
}

/* service_find finds the frontend for an address and port. *address gets the SERVICE_* flags of the address entry when the port is unknown
 * (0: not a service address). Callers ask vip_filter_has first. */
inline_fn struct service *service_find(const struct addr *a, __be16 port, __u8 proto, __u16 *address)
{
	struct service_key k = { .addr = *a, .port = port, .proto = proto };
	struct service *s = bpf_map_lookup_elem(&services, &k);

	*address = 0;
	if (s)
		return s;
	k.port = 0;
	k.proto = 0;
	s = bpf_map_lookup_elem(&services, &k);
	if (!s)
		return NULL;
	*address = s->flags;
	if (!(s->flags & SERVICE_NODE))
		return NULL;
	if (addr_is4(a))
		k.addr.w[3] = 0;
	else
		memset(&k.addr, 0, sizeof(k.addr));
	k.port = port;
	k.proto = proto;
	return bpf_map_lookup_elem(&services, &k);
}

inline_fn struct backend *backend_at(__u32 row)
{
	return bpf_map_lookup_elem(&backends, &row);
}

inline_fn __u32 slot_read(const struct slot_run *s, __u32 i)
{
	__u32 e = s->base + (i >> 4);
	struct slot_elem *el = bpf_map_lookup_elem(&slots, &e);

	return el ? READ_ONCE(el->id[i & (SLOTS_PER_ELEM - 1)]) : 0;
}

/* backend_usable says whether a connection remembered for this row may still begin on it. */
inline_fn int backend_usable(const struct backend *b, __u32 service, __u32 generation, int local)
{
	return b && b->service == service && b->generation == generation && (b->flags & (local ? BACKEND_LOCAL_SET : BACKEND_CLUSTER));
}

/* affinity_get returns the row that the client's last connection to the service went to, if that may still take new ones; else 0. */
static __noinline __u32 affinity_get(const struct service *svc, const struct addr *client, int local)
{
	struct affinity_key k = { .client = *client, .service = svc->id };
	struct affinity *af = bpf_map_lookup_elem(&affinities, &k);
	__u32 row, now = clock_ticks();

	if (!af || now - af->last > svc->affinity)
		return 0;
	row = af->backend;
	if (!backend_usable(backend_at(row), svc->id, af->generation, local))
		return 0;
	if (af->last != now)
		WRITE_ONCE(af->last, now);
	lb_count(lb_affinity_hit);
	return row;
}

static __noinline void affinity_put(const struct service *svc, const struct addr *client, __u32 row, __u32 generation)
{
	struct affinity_key k = { .client = *client, .service = svc->id };
	struct affinity af = { .backend = row, .generation = generation, .last = clock_ticks() };

	bpf_map_update_elem(&affinities, &k, &af, BPF_ANY);
}

/* service_select picks a backend row for a new connection from client. hash decides where selection is by hash (traffic from outside, Maglev).
 * Returns NULL if the service has no usable backend for the scope. Honours and refreshes session affinity. */
inline_fn struct backend *service_select(struct service *svc, enum lb_scope scope, const struct addr *client, __u32 hash, __u32 *row)
{
	const struct slot_run *s = scope == scope_out ? &svc->out : &svc->in; /* no copy: the stack is scarce */
	struct backend *b;
	__u32 id;

	if (!s->count)
		return NULL;
	if (svc->affinity) {
		id = affinity_get(svc, client, svc->flags & (scope == scope_out ? SERVICE_OUT_LOCAL : SERVICE_IN_LOCAL));
		if (id) {
			*row = id;
			return backend_at(id);
		}
	}
	if (scope == scope_in && svc->algorithm != algorithm_maglev)
		hash = bpf_get_prandom_u32();
	id = slot_read(s, hash_scale(hash, s->count));
	if (svc->algorithm == algorithm_least && scope == scope_in && s->count > 1) {
		__u32 other = slot_read(s, hash_scale(bpf_get_prandom_u32(), s->count));
		struct backend_load *l1 = bpf_map_lookup_elem(&backend_loads, &id);
		struct backend_load *l2 = bpf_map_lookup_elem(&backend_loads, &other);

		if (l1 && l2 && READ_ONCE(l2->open) < READ_ONCE(l1->open))
			id = other;
	}
	b = backend_at(id);
	if (b && svc->affinity)
		affinity_put(svc, client, id, b->generation);
	*row = id;
	return b;
}
