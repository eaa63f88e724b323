/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Hashes of the datapath. User space repeats addr_filter_bit (loadbalancer/filter.go), nothing else. */
#pragma once

#include "types.h"
#include "config.h"

#define HASH_MULT 0x9E3779B97F4A7C15ULL

inline_fn __u64 hash_mix(__u64 h, __u64 v)
{
	h = (h ^ v) * HASH_MULT;
	return h ^ (h >> 32);
}

inline_fn __u64 addr_word(const struct addr *a, int i)
{
	return (__u64)a->w[2 * i] << 32 | a->w[2 * i + 1];
}

/* addr_filter_bit returns the bit of vip_filter that stands for a: 16 bits. Words are taken as the machine reads them. */
inline_fn __u32 addr_filter_bit(const struct addr *a)
{
	return hash_mix(hash_mix(0, addr_word(a, 0)), addr_word(a, 1)) & 0xffff;
}

/* flow_hash hashes the tuple; equal on all nodes for equal cfg_hash_seed. */
inline_fn __u32 flow_hash(const struct addr *saddr, const struct addr *daddr, __be16 sport, __be16 dport, __u8 proto)
{
	__u64 h = cfg_hash_seed;

	h = hash_mix(h, addr_word(saddr, 0));
	h = hash_mix(h, addr_word(saddr, 1));
	h = hash_mix(h, addr_word(daddr, 0));
	h = hash_mix(h, addr_word(daddr, 1));
	h = hash_mix(h, (__u64)sport << 32 | (__u64)dport << 16 | proto);
	return h;
}

/* scale maps a 32-bit hash evenly to 0..n-1 without a division. */
inline_fn __u32 hash_scale(__u32 h, __u32 n)
{
	return ((__u64)h * n) >> 32;
}
