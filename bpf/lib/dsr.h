/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Direct server return: a backend on another node gets the client's packet with the client's address, and its node answers the client under the service's address.
 *
 *   entry node (xdp.c, uplink.c)                           backend's node (uplink.c)
 *   lb_decide says d.dsr -> dsr_send                       dsr_in -> lb_decide with d.peer -> the packet as if it had come here
 *
 * Every packet says which service it is for, not a connection's first alone: a flow that routers move to another entry node loses nothing, and the backend's node needs
 * nothing but the packet to make the connection's entries anew.
 *
 *   IPIP, IP6IP6    another header in front, from this node to the backend: the inner packet is the client's own, the service's address in it
 *   option          the packet goes to the backend, with the service's address and port in an IPv4 option or an IPv6 destination option (experimental numbers of RFC 4727)
 *
 * A node takes both whatever it sends, so nodes can be changed one by one. It believes them as little as any packet: the service must exist here, admit the client by its source
 * ranges, and have that very backend on this node. What is not so passes untouched. */
#pragma once

#include "lb.h"

/* Values of cfg_dsr. */
enum dsr_dispatch {
	dsr_none = 0,
	dsr_ipip,
	dsr_option,
};

#define DSR_OPT4 158 /* copied to fragments, class 0, number 30 */
#define DSR_OPT6 0x1e /* skipped by who does not know it, never changed on the way */

struct dsr_opt4 {
	__u8 type;
	__u8 len; /* 8 */
	__be16 port;
	__be32 addr;
};
_Static_assert(sizeof(struct dsr_opt4) == 8, "two words of IPv4 options");

struct dsr_opt6 {
	__u8 next; /* of the destination options header */
	__u8 hdr_len; /* 2: 24 bytes */
	__u8 type;
	__u8 len; /* 20 */
	__be16 port;
	__u16 pad;
	__be32 addr[4];
};
_Static_assert(sizeof(struct dsr_opt6) == 24, "three times eight bytes");

#define IPPROTO_V4 4
#define IPPROTO_V6 41

/* dsr_overhead is by how much dsr_send makes a packet of the family longer. */
inline_fn __u32 dsr_overhead(__u8 family)
{
	if (cfg_dsr == dsr_option)
		return family == AF_INET ? sizeof(struct dsr_opt4) : sizeof(struct dsr_opt6);
	return family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* dsr_candidate says whether another node may have dispatched the packet: whether dsr_in is worth a call. */
inline_fn int dsr_candidate(const struct flow *f)
{
	__u32 hlen = f->l4_off - f->l3_off;

	if (f->family == AF_INET)
		return f->proto == IPPROTO_V4 || hlen != sizeof(struct iphdr);
	return f->proto == IPPROTO_V6 || hlen != sizeof(struct ipv6hdr);
}

inline_fn void dsr_outer4(struct iphdr *ip, const struct flow *f, const struct tuple *t)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = f->tos;
	ip->tot_len = bpf_htons(f->l3_len + sizeof(*ip));
	ip->frag_off = bpf_htons(PARSE_IP_DF);
	ip->ttl = 64;
	ip->protocol = IPPROTO_V4;
	ip->saddr = cfg_node_ip4.w[3];
	ip->daddr = t->daddr.w[3];
	ip->check = ~csum_fold((__u64)bpf_htons(0x4500 | f->tos) + ip->tot_len + ip->frag_off + bpf_htons(64 << 8 | IPPROTO_V4) + ip->saddr + ip->daddr);
}

inline_fn void dsr_outer6(struct ipv6hdr *ip, const struct flow *f, const struct tuple *t)
{
	*(__be32 *)ip = bpf_htonl(6 << 28 | (__u32)f->tos << 20);
	ip->payload_len = bpf_htons(f->l3_len);
	ip->nexthdr = IPPROTO_V6;
	ip->hop_limit = 64;
	ip->saddr.s6_addr32[0] = cfg_node_ip6.w[0];
	ip->saddr.s6_addr32[1] = cfg_node_ip6.w[1];
	ip->saddr.s6_addr32[2] = cfg_node_ip6.w[2];
	ip->saddr.s6_addr32[3] = cfg_node_ip6.w[3];
	memcpy(ip->daddr.s6_addr32, t->daddr.w, 16);
}

/* dsr_room says whether the packet can take what dsr_send adds; 0 or a drop reason. */
inline_fn int dsr_room(const struct flow *f, __u8 nexthdr)
{
	if (f->l3_off != sizeof(struct ethhdr))
		return drop_unsupported_proto; /* tagged */
	if (f->l3_len + dsr_overhead(f->family) > 0xffff)
		return drop_too_big;
	if (cfg_dsr != dsr_option)
		return 0;
	if (f->family == AF_INET)
		return f->l4_off - f->l3_off + sizeof(struct dsr_opt4) > 60 ? drop_unsupported_proto : 0;
	return nexthdr == IPPROTO_HOPOPTS ? drop_unsupported_proto : 0; /* those come first */
}

#ifdef CTX_XDP

/* The headers that dsr_send makes, with the Ethernet header before them. */
struct dsr_ipip4 {
	struct ethhdr eth;
	struct iphdr ip;
} __attribute__((packed));

struct dsr_ipip6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
} __attribute__((packed));

struct dsr_option4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct dsr_opt4 opt;
} __attribute__((packed));

struct dsr_option6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct dsr_opt6 opt;
} __attribute__((packed));

/* dsr_send dispatches the packet f to the backend t->daddr. The caller writes the Ethernet header's addresses and has counted the hop. Returns 0 or a drop reason. */
static __noinline int dsr_send(ctx_t *ctx, struct flow *f, const struct tuple *t)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct addr service = f->daddr;
	struct ethhdr *eth = data;
	__be16 port = f->dport;
	__u8 nexthdr = 0;
	int r;

	if (f->family == AF_INET6) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > data_end)
			return drop_malformed;
		nexthdr = ip->nexthdr;
	}
	r = dsr_room(f, nexthdr);
	if (r)
		return r;
	if (cfg_dsr != dsr_option) {
		if (f->family == AF_INET) {
			struct dsr_ipip4 h = {};

			h.eth.h_proto = bpf_htons(ETH_P_IP);
			dsr_outer4(&h.ip, f, t);
			return ctx_grow_l3(ctx, sizeof(h.ip)) || ctx_write_head(ctx, &h, sizeof(h)) ? drop_write : 0;
		} else {
			struct dsr_ipip6 h = {};

			h.eth.h_proto = bpf_htons(ETH_P_IPV6);
			dsr_outer6(&h.ip, f, t);
			return ctx_grow_l3(ctx, sizeof(h.ip)) || ctx_write_head(ctx, &h, sizeof(h)) ? drop_write : 0;
		}
	}
	r = rewrite(ctx, f, t);
	if (r)
		return r;
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	if (f->family == AF_INET) {
		struct dsr_option4 h = {};
		__u64 diff;

		if (data + sizeof(struct ethhdr) + sizeof(struct iphdr) > data_end)
			return drop_malformed;
		memcpy(&h, data, sizeof(struct ethhdr) + sizeof(struct iphdr));
		h.opt.type = DSR_OPT4;
		h.opt.len = sizeof(h.opt);
		h.opt.port = port;
		h.opt.addr = service.w[3];
		diff = (__u64)bpf_htons(DSR_OPT4 << 8 | sizeof(h.opt)) + port + service.w[3] + bpf_htons(0x0200) + (__u16)~h.ip.tot_len;
		h.ip.ihl += sizeof(h.opt) / 4;
		h.ip.tot_len = bpf_htons(f->l3_len + sizeof(h.opt));
		h.ip.check = csum_apply(h.ip.check, diff + h.ip.tot_len);
		return ctx_grow_l3(ctx, sizeof(h.opt)) || ctx_write_head(ctx, &h, sizeof(h)) ? drop_write : 0;
	} else {
		struct dsr_option6 h = {};

		if (data + sizeof(struct ethhdr) + sizeof(struct ipv6hdr) > data_end)
			return drop_malformed;
		memcpy(&h, data, sizeof(struct ethhdr) + sizeof(struct ipv6hdr));
		h.opt.next = h.ip.nexthdr;
		h.opt.hdr_len = sizeof(h.opt) / 8 - 1;
		h.opt.type = DSR_OPT6;
		h.opt.len = sizeof(h.opt) - 4;
		h.opt.port = port;
		memcpy(h.opt.addr, service.w, 16);
		h.ip.nexthdr = IPPROTO_DSTOPTS;
		h.ip.payload_len = bpf_htons(f->l3_len - sizeof(h.ip) + sizeof(h.opt));
		return ctx_grow_l3(ctx, sizeof(h.opt)) || ctx_write_head(ctx, &h, sizeof(h)) ? drop_write : 0;
	}
}

#else

/* dsr_send dispatches the packet f to the backend t->daddr. The caller has counted the hop. Returns 0 or a drop reason. */
static __noinline int dsr_send(struct __sk_buff *skb, struct flow *f, const struct tuple *t)
{
	struct addr service = f->daddr;
	__be16 port = f->dport;
	__u8 nexthdr = 0;
	int r;

	if (f->family == AF_INET6 && bpf_skb_load_bytes(skb, f->l3_off + offsetof(struct ipv6hdr, nexthdr), &nexthdr, 1))
		return drop_malformed;
	r = dsr_room(f, nexthdr);
	if (r)
		return r;
	if (cfg_dsr != dsr_option) {
		if (f->family == AF_INET) {
			struct iphdr ip = {};

			dsr_outer4(&ip, f, t);
			r = bpf_skb_adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) ||
			    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip), 0);
		} else {
			struct ipv6hdr ip = {};

			dsr_outer6(&ip, f, t);
			r = bpf_skb_adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) ||
			    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip), 0);
		}
		return r ? drop_write : 0;
	}
	r = rewrite(skb, f, t);
	if (r)
		return r;
	if (bpf_skb_adjust_room(skb, dsr_overhead(f->family), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop_write;
	if (f->family == AF_INET) {
		struct {
			struct iphdr ip;
			struct dsr_opt4 opt;
		} h = {};
		__u64 diff;

		if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &h.ip, sizeof(h.ip)))
			return drop_write;
		h.opt.type = DSR_OPT4;
		h.opt.len = sizeof(h.opt);
		h.opt.port = port;
		h.opt.addr = service.w[3];
		diff = (__u64)bpf_htons(DSR_OPT4 << 8 | sizeof(h.opt)) + port + service.w[3] + bpf_htons(0x0200) + (__u16)~h.ip.tot_len;
		h.ip.ihl += sizeof(h.opt) / 4;
		h.ip.tot_len = bpf_htons(f->l3_len + sizeof(h.opt));
		h.ip.check = csum_apply(h.ip.check, diff + h.ip.tot_len);
		r = bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &h, sizeof(h), 0);
	} else {
		struct dsr_opt6 opt = {};
		__be16 len = bpf_htons(f->l3_len - sizeof(struct ipv6hdr) + sizeof(opt));
		__u8 next = IPPROTO_DSTOPTS;

		opt.next = nexthdr;
		opt.hdr_len = sizeof(opt) / 8 - 1;
		opt.type = DSR_OPT6;
		opt.len = sizeof(opt) - 4;
		opt.port = port;
		memcpy(opt.addr, service.w, 16);
		r = bpf_skb_store_bytes(skb, sizeof(struct ethhdr) + offsetof(struct ipv6hdr, payload_len), &len, 2, 0) ||
		    bpf_skb_store_bytes(skb, sizeof(struct ethhdr) + offsetof(struct ipv6hdr, nexthdr), &next, 1, 0) ||
		    bpf_skb_store_bytes(skb, sizeof(struct ethhdr) + sizeof(struct ipv6hdr), &opt, sizeof(opt), 0);
	}
	return r ? drop_write : 0;
}

/* dsr_inner parses what the packet f carries in another IP packet. */
static __noinline int dsr_inner(struct __sk_buff *skb, const struct flow *f, struct flow *in)
{
	__be16 proto = f->family == AF_INET ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	__u16 off = f->l4_off & OFF_MASK;
	int r;

	r = parse_l3((void *)(long)skb->data, (void *)(long)skb->data_end, off, proto, in);
	if (likely(r == parse_ok) || bpf_skb_pull_data(skb, skb->len < SKB_HEADERS ? skb->len : SKB_HEADERS))
		return r;
	return parse_l3((void *)(long)skb->data, (void *)(long)skb->data_end, off, proto, in);
}

/* dsr_read returns the flow that the client sent, with the offsets of the packet as it is now, in this CPU's scratch; NULL if no node has dispatched the packet here. */
static __noinline struct flow *dsr_read(struct __sk_buff *skb, const struct flow *f)
{
	struct lb_scratch *s;
	struct flow *in;
	__u32 zero = 0;

	if (!local_filter_has(&f->daddr))
		return NULL;
	s = bpf_map_lookup_elem(&lb_scratches, &zero);
	if (!s)
		return NULL;
	in = &s->inner;
	if (f->family == AF_INET) {
		struct dsr_opt4 opt;

		if (f->proto == IPPROTO_V4)
			return !f->frag && f->l4_off - f->l3_off == sizeof(struct iphdr) && dsr_inner(skb, f, in) == parse_ok ? in : NULL;
		if (f->l4_off - f->l3_off < sizeof(struct iphdr) + sizeof(opt) || bpf_skb_load_bytes(skb, f->l3_off + sizeof(struct iphdr), &opt, sizeof(opt)) ||
		    opt.type != DSR_OPT4 || opt.len != sizeof(opt))
			return NULL;
		*in = *f;
		addr_set4(&in->daddr, opt.addr);
		in->dport = f->frag == FLOW_FRAG_LATER ? 0 : opt.port;
		return in;
	} else {
		struct dsr_opt6 opt;
		__u8 next;

		if (f->proto == IPPROTO_V6)
			return !f->frag && f->l4_off - f->l3_off == sizeof(struct ipv6hdr) && dsr_inner(skb, f, in) == parse_ok ? in : NULL;
		if (bpf_skb_load_bytes(skb, f->l3_off + offsetof(struct ipv6hdr, nexthdr), &next, 1) || next != IPPROTO_DSTOPTS ||
		    bpf_skb_load_bytes(skb, f->l3_off + sizeof(struct ipv6hdr), &opt, sizeof(opt)) || opt.type != DSR_OPT6 || opt.len != sizeof(opt) - 4 ||
		    opt.hdr_len != sizeof(opt) / 8 - 1)
			return NULL;
		*in = *f;
		addr_set6(&in->daddr, opt.addr);
		in->dport = f->frag == FLOW_FRAG_LATER ? 0 : opt.port;
		return in;
	}
}

/* dsr_strip takes what dsr_send added out of the packet f; in is brought up to date. Returns 0 or a drop reason. */
static __noinline int dsr_strip(struct __sk_buff *skb, const struct flow *f, struct flow *in)
{
	if (f->proto == IPPROTO_V4 || f->proto == IPPROTO_V6) {
		__u32 n = f->l4_off - f->l3_off;

		in->l3_off -= n;
		in->l4_off -= n;
		return bpf_skb_adjust_room(skb, -(__s32)n, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ? drop_write : 0;
	}
	if (f->family == AF_INET) {
		struct iphdr ip;
		struct dsr_opt4 opt;
		__u64 diff;

		if (bpf_skb_load_bytes(skb, f->l3_off + sizeof(ip), &opt, sizeof(opt)) ||
		    bpf_skb_adjust_room(skb, -(__s32)sizeof(opt), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) || bpf_skb_load_bytes(skb, f->l3_off, &ip, sizeof(ip)))
			return drop_write;
		diff = (__u64)(__u16)~bpf_htons(DSR_OPT4 << 8 | sizeof(opt)) + (__u16)~opt.port + (__u32)~opt.addr + (__u16)~bpf_htons(0x0200) + (__u16)~ip.tot_len;
		ip.ihl -= sizeof(opt) / 4;
		ip.tot_len = bpf_htons(f->l3_len - sizeof(opt));
		ip.check = csum_apply(ip.check, diff + ip.tot_len);
		in->l4_off -= sizeof(opt);
		in->l3_len -= sizeof(opt);
		return bpf_skb_store_bytes(skb, f->l3_off, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM) ? drop_write : 0;
	} else {
		__be16 len = bpf_htons(f->l3_len - sizeof(struct ipv6hdr) - sizeof(struct dsr_opt6));
		__u8 next;

		in->l4_off -= sizeof(struct dsr_opt6);
		in->l3_len -= sizeof(struct dsr_opt6);
		return bpf_skb_load_bytes(skb, f->l3_off + sizeof(struct ipv6hdr), &next, 1) ||
				       bpf_skb_adjust_room(skb, -(__s32)sizeof(struct dsr_opt6), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
				       bpf_skb_store_bytes(skb, f->l3_off + offsetof(struct ipv6hdr, payload_len), &len, 2, BPF_F_RECOMPUTE_CSUM) ||
				       bpf_skb_store_bytes(skb, f->l3_off + offsetof(struct ipv6hdr, nexthdr), &next, 1, BPF_F_RECOMPUTE_CSUM) ?
			       drop_write :
			       0;
	}
}

/* dsr_in takes a packet that another node dispatched: it becomes the client's, towards the backend, and its connection is remembered. Returns lb_none (untouched), lb_done, or a
 * negative drop reason. d is the caller's room for the decision. */
inline_fn int dsr_in(struct __sk_buff *skb, struct flow *f, struct lb_decision *d)
{
	struct flow *in = dsr_read(skb, f);
	int r;

	if (!in)
		return lb_none;
	d->peer = 1;
	d->t.daddr = f->daddr;
	r = lb_decide(in, LB_FROM_WIRE, d);
	if (r != lb_done)
		return r;
	r = dsr_strip(skb, f, in);
	if (r)
		return -r;
	if (f->proto != IPPROTO_V4 && f->proto != IPPROTO_V6) { /* addressed to the backend already */
		in->daddr = f->daddr;
		in->dport = f->dport;
	}
	r = rewrite(skb, in, &d->t);
	lb_count(lb_forwarded);
	return r ? -r : lb_done;
}

#endif
