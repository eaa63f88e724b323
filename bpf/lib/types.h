/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Keys and values of the load balancer's maps. Every field has its unit and byte order; padding is explicit and zero.
 * Changing a layout means raising loader.LayoutVersion. */
#pragma once

#include "addr.h"

/* service_key names a frontend: an address and port that clients use.
 * Special entries: port 0 and proto 0 is the address itself (see SERVICE_VIP, SERVICE_NODE); the zero address (:: or ::ffff:0.0.0.0) with
 * a port is a NodePort, valid on every address whose own entry has SERVICE_NODE. */
struct service_key {
	struct addr addr;
	__be16 port;
	__u8 proto; /* IPPROTO_TCP, _UDP, _SCTP; 0 in address entries */
	__u8 pad;
};
_Static_assert(sizeof(struct service_key) == 20, "service_key is 20 bytes");

/* slot_run is a run of backend ids in the map "slots": count ids, beginning at element base (SLOTS_PER_ELEM ids each). */
struct slot_run {
	__u32 base;
	__u32 count; /* 0: no usable backend */
};

enum service_algorithm {
	algorithm_random = 0,
	algorithm_maglev,
	algorithm_least, /* least connections of two random choices */
};

#define SERVICE_VIP 0x0001 /* address entry: all its ports are ours, unknown ones are refused, ping is answered */
#define SERVICE_NODE 0x0002 /* address entry: an address of this node, NodePorts are valid on it */
#define SERVICE_EXTERNAL 0x0004 /* NodePort, external or load balancer address */
#define SERVICE_OUT_LOCAL 0x0008 /* from outside only this node's backends, source kept (externalTrafficPolicy: Local) */
#define SERVICE_IN_LOCAL 0x0010 /* from inside only this node's backends (internalTrafficPolicy: Local) */
#define SERVICE_SOURCE_RANGES 0x0020 /* map source_ranges says who may come from outside */
#define SERVICE_DSR 0x0040 /* remote backends answer a client outside themselves (dsr.h) */
#define SERVICE_HAS_REMOTE 0x0080 /* usable backends exist somewhere, so an empty local set drops instead of refusing */
#define SERVICE_HERE 0x0100 /* this node answers at the service's own address: pods' packets stay as they are and leave no entry */

struct service {
	__u32 id; /* of the service port; all its frontends share it. Never 0 */
	__u16 flags; /* SERVICE_* */
	__u8 algorithm; /* enum service_algorithm, for traffic from inside; traffic from outside uses the table by hash */
	__u8 pad;
	struct slot_run out; /* for traffic from outside the cluster */
	struct slot_run in; /* for traffic from pods and nodes */
	__u32 affinity; /* session affinity by client address, ticks of 2^30 ns; 0: none */
	__u32 pad2;
};
_Static_assert(sizeof(struct service) == 32, "service is 32 bytes");

#define SLOTS_PER_ELEM 16
struct slot_elem {
	__u32 id[SLOTS_PER_ELEM]; /* backend ids */
};
_Static_assert(sizeof(struct slot_elem) == 64, "one cache line");

#define BACKEND_CLUSTER 0x01 /* in its service's cluster-wide set: may get new connections */
#define BACKEND_LOCAL_SET 0x02 /* in its service's node-local set */
#define BACKEND_ON_NODE 0x04 /* runs on this node */
#define BACKEND_LIVE 0x08 /* exists (serving or draining): keeps the connections it has */

/* backend is one endpoint of one service port; an endpoint behind several service ports has several rows. */
struct backend {
	struct addr addr;
	__be16 port;
	__u8 flags; /* BACKEND_*; 0: free row */
	__u8 weight; /* relative, 1..255 */
	__u32 service; /* id of the service port it belongs to */
	__u32 generation; /* of this row; a row's number is reused, its generation never soon */
	__u32 pad;
};
_Static_assert(sizeof(struct backend) == 32, "backend is 32 bytes");

/* backend_load counts the connections socket hooks opened to a backend row. */
struct backend_load {
	__u32 open; /* now */
	__u32 pad;
	__u64 total; /* since the row was filled */
};
_Static_assert(sizeof(struct backend_load) == 16, "backend_load is 16 bytes");

/* ct_key is the packet's own tuple, before translation. */
struct ct_key {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct ct_key) == 40, "ct_key is 40 bytes");

enum ct_state {
	ct_new = 0, /* first packet seen; TCP: SYN */
	ct_established, /* packets seen both ways */
	ct_closing, /* FIN or RST seen */
};

#define CT_REPLY 0x01 /* entry of the reply direction */
#define CT_SNAT 0x02 /* the client's address or port is translated too */
#define CT_FIN_SEEN 0x04 /* a FIN went this entry's direction */
#define CT_ASSURED 0x08 /* forward: a reply was seen */
#define CT_ON_NODE 0x10 /* the backend runs on this node */
#define CT_DSR 0x20 /* the backend answers by itself, past this node: the entry has no pair */

/* ct says how packets of one direction of one connection are rewritten. A connection has two entries, each the other's reverse. */
struct ct {
	struct addr saddr; /* the packet's source and destination after translation */
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	__u32 service; /* id of the service port */
	__u32 backend; /* row of the backend */
	__u32 last; /* last packet of this direction, ticks of 2^30 ns */
	__u8 state; /* enum ct_state */
	__u8 flags; /* CT_* */
	__u16 pad;
	__u32 generation; /* of the backend row when the connection began */
};
_Static_assert(sizeof(struct ct) == 56, "ct is 56 bytes");

/* local_backend_key finds a backend on this node by what another node says of it (dsr.h): the service and the address. The value is the row. */
struct local_backend_key {
	struct addr addr;
	__u32 service;
};
_Static_assert(sizeof(struct local_backend_key) == 20, "local_backend_key is 20 bytes");

struct affinity_key {
	struct addr client;
	__u32 service;
};
_Static_assert(sizeof(struct affinity_key) == 20, "affinity_key is 20 bytes");

struct affinity {
	__u32 backend;
	__u32 generation;
	__u32 last; /* ticks of 2^30 ns */
};

/* source_range_key is an LPM key: 32 bits of service id, then the address. */
struct source_range_key {
	__u32 prefixlen; /* 32 + prefix length of the address (IPv4: + 96) */
	__u32 service; /* compared bit by bit, so any byte order serves */
	struct addr addr;
};
_Static_assert(sizeof(struct source_range_key) == 24, "source_range_key is 24 bytes");

struct frag_key {
	struct addr saddr;
	struct addr daddr;
	__u32 id; /* network order */
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct frag_key) == 40, "frag_key is 40 bytes");

struct frag {
	__be16 sport;
	__be16 dport;
};

/* sock_peer is kept with a client's socket: what it asked for and what it got. */
struct sock_peer {
	struct addr service_addr;
	struct addr backend_addr;
	__be16 service_port;
	__be16 backend_port;
	__u32 backend; /* row */
	__u32 generation;
	__u32 counted; /* 1: backend_load.open counts this socket */
};
_Static_assert(sizeof(struct sock_peer) == 48, "sock_peer is 48 bytes");

/* sock_rev_key: for datagram sockets that talk to several services at once. */
struct sock_rev_key {
	__u64 cookie;
	struct addr addr; /* of the backend */
	__be16 port;
	__u16 pad[3];
};
_Static_assert(sizeof(struct sock_rev_key) == 32, "sock_rev_key is 32 bytes");

struct sock_rev {
	struct addr addr; /* of the service */
	__be16 port;
	__u16 pad;
};
_Static_assert(sizeof(struct sock_rev) == 20, "sock_rev is 20 bytes");

enum lb_counter_index {
	lb_forwarded = 0, /* packets translated towards a backend */
	lb_returned, /* packets translated back */
	lb_new, /* connections begun by packets */
	lb_sock_connect, /* sockets directed to a backend */
	lb_sock_refused, /* sockets refused: no backend */
	lb_ct_full, /* connections forwarded without an entry */
	lb_snat_retry, /* source ports tried and found taken */
	lb_affinity_hit,
	lb_echo, /* pings answered */
	lb_rejected, /* ICMP unreachable or RST sent */
	lb_counter_count,
};
