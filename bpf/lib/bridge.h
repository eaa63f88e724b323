/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* While a release replaces one whose tables have another layout, programs of both run side by side, each with tables of its own: a connection may begin in one and be
 * answered in the other. Until the last old program is gone, a program of the new release therefore asks the old table for what its own lacks (recall), and writes what it
 * begins into both (tell).
 *
 * What turns an entry of one layout into the other's is known only when both are there: the loader puts it in place of the bodies below (loader/bridge.go).
 * At any other time cfg_bridge is 0 and the verifier removes all of it. The bodies need 8 bytes of stack and call no function of ours. */
#pragma once

#include "base.h"

const volatile __u8 cfg_bridge; /* 1: programs of another layout may still run */

/* BRIDGE declares, for a map, NAME_recall(k), which takes the entry k over from the old table and returns it, NULL if that lacks it too, and NAME_tell(k, v), which writes an
 * entry there. */
#define BRIDGE(name)                                               \
	static __noinline void *name##_recall(const void *k)       \
	{                                                          \
		void *e = NULL;                                    \
		asm volatile("" : "+r"(e) : "r"(k) : "memory");    \
		return e;                                          \
	}                                                          \
	static __noinline void name##_tell(const void *k, const void *v) \
	{                                                          \
		asm volatile("" : : "r"(k), "r"(v) : "memory");    \
	}
