/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Node-wide configuration: load-time constants, set by loader.Load by their C names. Never #ifdef, so nodes need no compiler,
 * and the verifier removes the branches a node does not need. Only what several attach points share stands here. */
#pragma once

#include "addr.h"

/* This node's own addresses for source translation; zero where the node lacks the family. */
const volatile struct addr cfg_node_ip4;
const volatile struct addr cfg_node_ip6;

/* Source ports used for translation, inclusive, host order. Outside the ephemeral range (32768-60999) and the NodePort range, so that
 * a translated flow never collides with a connection of the node itself. */
const volatile __u16 cfg_snat_port_min = 12000;
const volatile __u16 cfg_snat_port_max = 29999;

/* Addresses of pods, cluster wide: traffic from them counts as inside even when it comes in by an uplink. Zero mask: none. */
const volatile struct addr cfg_pod_net4, cfg_pod_mask4;
const volatile struct addr cfg_pod_net6, cfg_pod_mask6;

/* Seed of the flow hash. Equal on all nodes of a cluster, so that each picks the same backend for the same flow. */
const volatile __u32 cfg_hash_seed = 0x6661696c;

/* How packets get to a remote backend that answers by itself: enum dsr_dispatch of dsr.h. 0: new connections have their source translated. */
const volatile __u8 cfg_dsr;

/* 1 where the kernel has the helper: bpf_set_retval (5.18), bpf_ktime_get_coarse_ns (5.11). */
const volatile __u8 cfg_have_set_retval;
const volatile __u8 cfg_have_coarse_clock;

/* Extra flags of bpf_l4_csum_replace for IPv6: BPF_F_IPV6 where the kernel knows it (6.16), else 0. */
const volatile __u64 cfg_l4_csum_ipv6;

/* Conntrack lifetimes in ticks of 2^30 ns (1.07 s). User space reads and sweeps with the same numbers. */
const volatile __u32 cfg_ct_tcp_syn = 56; /* 60 s */
const volatile __u32 cfg_ct_tcp_established = 20116; /* 6 h */
const volatile __u32 cfg_ct_tcp_closing = 10;
const volatile __u32 cfg_ct_udp = 28; /* 30 s: one direction seen */
const volatile __u32 cfg_ct_udp_stream = 168; /* 180 s: both directions seen */

/* clock_ticks returns CLOCK_MONOTONIC in ticks of 2^30 ns. */
inline_fn __u32 clock_ticks(void)
{
	if (cfg_have_coarse_clock)
		return bpf_ktime_get_coarse_ns() >> 30;
	return bpf_ktime_get_ns() >> 30;
}

inline_fn int addr_in(const struct addr *a, const volatile struct addr *net, const volatile struct addr *mask)
{
	return mask->w[3] | mask->w[2] | mask->w[1] | mask->w[0] ?
		       !(((a->w[0] ^ net->w[0]) & mask->w[0]) | ((a->w[1] ^ net->w[1]) & mask->w[1]) |
			 ((a->w[2] ^ net->w[2]) & mask->w[2]) | ((a->w[3] ^ net->w[3]) & mask->w[3])) :
		       0;
}

/* addr_is_pod says whether a belongs to the cluster's pod network. */
inline_fn int addr_is_pod(const struct addr *a)
{
	return addr_in(a, &cfg_pod_net4, &cfg_pod_mask4) || addr_in(a, &cfg_pod_net6, &cfg_pod_mask6);
}
