/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One address type for both families, so that every map and every function below is written once. */
#pragma once

#include "base.h"

/* addr holds an IPv6 address, or an IPv4 address in IPv4-mapped form (::ffff:a.b.c.d), in network byte order.
 * It is byte for byte what Go's netip.Addr.As16 gives. */
struct addr {
	union {
		__u8 b[16];
		__be32 w[4];
	};
};
_Static_assert(sizeof(struct addr) == 16, "addr is 16 bytes");

#define ADDR_V4_PREFIX bpf_htonl(0x0000ffff)

inline_fn void addr_set4(struct addr *a, __be32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = ADDR_V4_PREFIX;
	a->w[3] = v4;
}

inline_fn void addr_set6(struct addr *a, const __be32 *v6)
{
	a->w[0] = v6[0];
	a->w[1] = v6[1];
	a->w[2] = v6[2];
	a->w[3] = v6[3];
}

inline_fn int addr_is4(const struct addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == ADDR_V4_PREFIX;
}

inline_fn int addr_eq(const struct addr *a, const struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

inline_fn int addr_is_zero(const struct addr *a)
{
	return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0;
}
