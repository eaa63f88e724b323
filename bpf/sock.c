/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Socket hooks of the node's cgroup: a service address becomes a backend once, when a socket connects or sends, so packets
 * east-west cost nothing. connect and sendmsg choose; recvmsg and getpeername show the service address again; sock_release keeps the
 * count of open connections. Sockets in opted-out network namespaces (map sock_skip) are left to the packet programs. */
#include "lib/base.h"
#include "lib/select.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ECONNREFUSED 111
#define SOCK_DGRAM 2
#define SYS_ALLOW 1
#define SYS_REFUSE 0

/* refuse makes the system call fail with ECONNREFUSED (EPERM before Linux 5.18). */
inline_fn int refuse(void)
{
	lb_count(lb_sock_refused);
	if (cfg_have_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return SYS_REFUSE;
}

inline_fn __u8 service_proto(const struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_UDP || ctx->protocol == 132 ? ctx->protocol : 0;
}

inline_fn void load_uncount(struct sock_peer *p)
{
	struct backend_load *l;
	struct backend *b;

	if (!p->counted)
		return;
	p->counted = 0;
	b = backend_at(p->backend);
	l = bpf_map_lookup_elem(&backend_loads, &p->backend);
	if (b && l && b->generation == p->generation)
		__sync_fetch_and_add(&l->open, -1);
}

inline_fn void load_count(struct sock_peer *p)
{
	struct backend_load *l = bpf_map_lookup_elem(&backend_loads, &p->backend);

	if (!l)
		return;
	p->counted = 1;
	__sync_fetch_and_add(&l->open, 1);
	__sync_fetch_and_add(&l->total, 1);
}

/* remember notes which service a datagram socket's peer stands for, by the socket's cookie. */
inline_fn void remember(struct bpf_sock_addr *ctx, const struct sock_peer *p)
{
	struct sock_rev_key k = { .cookie = bpf_get_socket_cookie(ctx), .addr = p->backend_addr, .port = p->backend_port };
	struct sock_rev v = { .addr = p->service_addr, .port = p->service_port };

	bpf_map_update_elem(&sock_revs, &k, &v, BPF_ANY);
}

/* direct replaces *a and *port by a backend's if they name a service. Returns SYS_ALLOW or SYS_REFUSE; *changed tells. */
inline_fn int direct(struct bpf_sock_addr *ctx, struct addr *a, __be16 *port, int is_connect, int *changed)
{
	__u8 proto = service_proto(ctx);
	struct sock_peer *peer;
	struct addr client = {};
	struct service *svc;
	struct backend *b;
	__u64 netns;
	__u16 address;
	__u32 row = 0;
	int dgram;

	*changed = 0;
	if (!proto || !vip_filter_has(a))
		goto plain;
	netns = bpf_get_netns_cookie(ctx);
	if (unlikely(bpf_map_lookup_elem(&sock_skip, &netns) != NULL))
		goto plain;
	svc = service_find(a, *port, proto, &address);
	if (!svc) {
		/* No such port. Connecting a datagram socket sends nothing: getaddrinfo() does it, with any port, to sort addresses by
		 * whether and from where they are reached (RFC 6724), so that may not fail. What is sent is answered by the packet programs. */
		if (address & SERVICE_VIP && !(is_connect && proto == IPPROTO_UDP))
			return refuse();
		goto plain;
	}
	if (!ctx->sk)
		return SYS_ALLOW;
	dgram = !is_connect;
	peer = bpf_sk_storage_get(&sock_peers, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (dgram && peer && peer->service_port == *port && addr_eq(&peer->service_addr, a)) {
		/* The same unconnected socket keeps its backend while that takes new connections. */
		b = backend_at(peer->backend);
		if (backend_usable(b, svc->id, peer->generation, svc->flags & SERVICE_IN_LOCAL)) {
			*a = peer->backend_addr;
			*port = peer->backend_port;
			*changed = 1;
			return SYS_ALLOW;
		}
	}
	/* Clients of this node are told apart by network namespace: a socket has no address of its own yet. */
	client.w[0] = bpf_htonl(0xfe000000);
	client.w[2] = netns >> 32;
	client.w[3] = netns;
	b = service_select(svc, scope_in, &client, (__u32)netns * 2654435761U, &row);
	if (!b)
		return refuse();
	if (peer) {
		load_uncount(peer);
		if (dgram && peer->backend_port)
			remember(ctx, peer); /* late answers of the earlier one still show the service's address */
		peer->service_addr = *a;
		peer->service_port = *port;
		peer->backend_addr = b->addr;
		peer->backend_port = b->port;
		peer->backend = row;
		peer->generation = b->generation;
		if (is_connect) {
			load_count(peer);
			if (proto == IPPROTO_UDP)
				remember(ctx, peer); /* lets user space find the sockets of a backend that went away */
		}
	}
	lb_count(lb_sock_connect);
	*a = b->addr;
	*port = b->port;
	*changed = 1;
	return SYS_ALLOW;
plain:
	/* A socket that connected to a service before and now goes elsewhere no longer counts. */
	if (is_connect && ctx->sk) {
		peer = bpf_sk_storage_get(&sock_peers, ctx->sk, NULL, 0);
		if (peer) {
			load_uncount(peer);
			peer->backend_port = 0;
			peer->service_port = 0;
		}
	}
	return SYS_ALLOW;
}

/* restore replaces a backend's address by the service's that the socket asked for. Returns 1 if it did. */
inline_fn int restore(struct bpf_sock_addr *ctx, struct addr *a, __be16 *port, int dgram)
{
	struct sock_rev_key k = {};
	struct sock_peer *peer;
	struct sock_rev *rev;

	if (!ctx->sk)
		return 0;
	peer = bpf_sk_storage_get(&sock_peers, ctx->sk, NULL, 0);
	if (!peer)
		return 0;
	if (peer->backend_port == *port && addr_eq(&peer->backend_addr, a)) {
		*a = peer->service_addr;
		*port = peer->service_port;
		return 1;
	}
	if (!dgram)
		return 0;
	k.cookie = bpf_get_socket_cookie(ctx);
	k.addr = *a;
	k.port = *port;
	rev = bpf_map_lookup_elem(&sock_revs, &k);
	if (!rev)
		return 0;
	*a = rev->addr;
	*port = rev->port;
	return 1;
}

inline_fn void read6(struct bpf_sock_addr *ctx, struct addr *a)
{
	a->w[0] = ctx->user_ip6[0];
	a->w[1] = ctx->user_ip6[1];
	a->w[2] = ctx->user_ip6[2];
	a->w[3] = ctx->user_ip6[3];
}

inline_fn void write6(struct bpf_sock_addr *ctx, const struct addr *a)
{
	ctx->user_ip6[0] = a->w[0];
	ctx->user_ip6[1] = a->w[1];
	ctx->user_ip6[2] = a->w[2];
	ctx->user_ip6[3] = a->w[3];
}

inline_fn int direct4(struct bpf_sock_addr *ctx, int is_connect)
{
	__be16 port = ctx->user_port;
	struct addr a;
	int changed, ret;

	addr_set4(&a, ctx->user_ip4);
	ret = direct(ctx, &a, &port, is_connect, &changed);
	if (changed) {
		ctx->user_ip4 = a.w[3];
		ctx->user_port = port;
	}
	return ret;
}

inline_fn int direct6(struct bpf_sock_addr *ctx, int is_connect)
{
	__be16 port = ctx->user_port;
	struct addr a;
	int changed, ret;

	read6(ctx, &a);
	ret = direct(ctx, &a, &port, is_connect, &changed);
	if (changed) {
		write6(ctx, &a);
		ctx->user_port = port;
	}
	return ret;
}

inline_fn int restore4(struct bpf_sock_addr *ctx, int dgram)
{
	__be16 port = ctx->user_port;
	struct addr a;

	addr_set4(&a, ctx->user_ip4);
	if (restore(ctx, &a, &port, dgram)) {
		ctx->user_ip4 = a.w[3];
		ctx->user_port = port;
	}
	return SYS_ALLOW;
}

inline_fn int restore6(struct bpf_sock_addr *ctx, int dgram)
{
	__be16 port = ctx->user_port;
	struct addr a;

	read6(ctx, &a);
	if (restore(ctx, &a, &port, dgram)) {
		write6(ctx, &a);
		ctx->user_port = port;
	}
	return SYS_ALLOW;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	return direct4(ctx, 1);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	return direct6(ctx, 1);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	return direct4(ctx, 0);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	return direct6(ctx, 0);
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx, 1);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx, 1);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx, 0);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx, 0);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct sock_peer *peer = bpf_sk_storage_get(&sock_peers, ctx, NULL, 0);

	if (peer)
		load_uncount(peer);
	return SYS_ALLOW;
}
