/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What differs between XDP and tc programs, so that lb.h and its parts are written once. A program defines CTX_XDP before including
 * anything to get the XDP side. */
#pragma once

#include "skb.h"
#include "config.h"
#include "drop.h"

#ifdef CTX_XDP
typedef struct xdp_md ctx_t;
inline_fn __u32 ctx_len(const struct xdp_md *ctx)
{
	long data = ctx->data, end = ctx->data_end;
	__u32 len;

	/* Keep the compiler from mixing the subtraction into others: pointers take only 64-bit arithmetic. */
	asm volatile("" : "+r"(data), "+r"(end));
	len = end - data;
	asm volatile("" : "+r"(len));
	return len;
}

#define ctx_ifindex(ctx) ((ctx)->ingress_ifindex)
#else
typedef struct __sk_buff ctx_t;
#define ctx_len(ctx) ((ctx)->len)
#define ctx_ifindex(ctx) ((ctx)->ifindex)
#endif

/* The largest offset of a header that these programs touch; masks keep the verifier sure of it. */
#define OFF_MASK 0x7ff

inline_fn __u32 csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

inline_fn __u16 csum_fold(__u64 sum)
{
	__u32 s = csum_fold32(sum);

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return s;
}

/* csum_apply returns the checksum field old after the covered data changed by diff (sum of new words and complemented old ones; RFC 1624 eqn. 3). */
inline_fn __u16 csum_apply(__u16 old, __u64 diff)
{
	return ~csum_fold((__u64)(__u16)~old + diff);
}
